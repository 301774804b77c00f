// The singular value decomposition that fits in 3-D are made of.
#pragma once

#include <algorithm>
#include <cmath>

namespace tpc {

// Singular values (descending) of a 3x3 matrix by one-sided Jacobi rotations, with *proper* rotations u and v, so that
// a = u diag(s) v^T where the last singular value carries the sign of det(a).
inline void svd3(const double (&a)[3][3], double (&u)[3][3], double (&s)[3], double (&v)[3][3]) {
  double work[3][3], basis[3][3];  // columns of a and of v, stored as rows
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      work[i][j] = a[j][i];
      basis[i][j] = i == j;
    }
  const auto dot = [](const double* p, const double* q) { return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]; };
  const auto cross = [](const double* p, const double* q, double* r) {
    r[0] = p[1] * q[2] - p[2] * q[1];
    r[1] = p[2] * q[0] - p[0] * q[2];
    r[2] = p[0] * q[1] - p[1] * q[0];
  };
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool rotated = false;
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        const double pp = dot(work[p], work[p]), qq = dot(work[q], work[q]), pq = dot(work[p], work[q]);
        if (std::abs(pq) <= 1e-16 * std::sqrt(pp * qq)) continue;
        rotated = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double tangent = std::copysign(1.0, zeta) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double cosine = 1 / std::sqrt(1 + tangent * tangent), sine = cosine * tangent;
        for (int i = 0; i < 3; ++i) {
          const double wp = work[p][i], wq = work[q][i], bp = basis[p][i], bq = basis[q][i];
          work[p][i] = cosine * wp - sine * wq;
          work[q][i] = sine * wp + cosine * wq;
          basis[p][i] = cosine * bp - sine * bq;
          basis[q][i] = sine * bp + cosine * bq;
        }
      }
    if (!rotated) break;
  }
  int order[3] = {0, 1, 2};
  std::sort(order, order + 3, [&](int i, int j) { return dot(work[i], work[i]) > dot(work[j], work[j]); });
  double left[3][3], right[3][3];
  for (int r = 0; r < 2; ++r) {
    const double* column = work[order[r]];
    s[r] = std::sqrt(dot(column, column));
    for (int i = 0; i < 3; ++i) {
      left[r][i] = s[r] > 0 ? column[i] / s[r] : 0;
      right[r][i] = basis[order[r]][i];
    }
  }
  cross(left[0], left[1], left[2]);
  cross(right[0], right[1], right[2]);
  double image[3];
  for (int i = 0; i < 3; ++i) image[i] = dot(a[i], right[2]);
  s[2] = dot(left[2], image);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      u[i][j] = left[j][i];
      v[i][j] = right[j][i];
    }
}

}  // namespace tpc
