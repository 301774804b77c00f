// One estimate of a person's whole track. The specification is tpc_fast/naive/track.py, which explains every step; the
// names are the same. Everything is double. Points of a photo are in its person's own frame: x along the body, size 1.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace tpc {

constexpr int kTrackPoints = 17, kTrackState = 4;
constexpr int kMaxTrackParts = 8, kMaxTrackCandidates = 2 * (kMaxTrackParts + 1), kTrackRow = 6;

struct TrackSettings {  // see tpc_fast/track.py, which has the values and where they come from
  double tolerance[kTrackPoints], part_weights[kTrackPoints];
  int parts = 0, size_parts = 0;
  bool candidate_parts[kMaxTrackParts][kTrackPoints], pair_parts[kMaxTrackParts][kTrackPoints];
  double tolerance_sigmas, across, correlation_seconds, least_weight, misfit, upright, size_seconds, least_seconds;
  double path_log_scale[2], path_angle[2], path_position[2], path_side, path_break;
  double converged, ridge, candidate_weight;
  double walk[kTrackState], acceleration[kTrackState];
  double window_seconds;
  int search, search_least, search_size, size_frames, path_frames, iterations, robust, window_frames, warm_iterations;
};

struct TrackPhoto {
  double sides[2][kTrackPoints][2], scores[2][kTrackPoints];
  bool seen[2][kTrackPoints], assumed[kTrackPoints];
  double angle, size, anchor[2];  // of the body in the photo: radians, pixels, and the place of the anchor
};

// The edges of what the camera shows, in pixels of the frame.
struct TrackPicture {
  double left, top, right, bottom;
};

// One person's frames. A point that is not seen is zero.
struct TrackFrames {
  int64_t count;
  const double* times;  // [F]
  const double* points;  // [F, K, 2]
  const double* scores;  // [F, K]
  const bool* seen;      // [F, K]
};

// sizes [F], weights [F]: person sizes and what a frame counts; rows [F, kMaxTrackCandidates, 6], counts [F].
void track_candidates(const TrackSettings& s, int64_t persons, const TrackPhoto* photos, const TrackFrames* frames,
                      double* sizes, double* weights, double* rows, int64_t* counts);

// chosen [F], breaks [F].
void track_path(const TrackSettings& s, int64_t frames, const double* times, const double* sizes, const double* rows,
                const int64_t* counts, int64_t* chosen, bool* breaks);

// side [F], states [F, 4], robust [F, K], information [F, 3]. Returns the number of iterations.
int track_refine(const TrackSettings& s, const TrackPhoto& photo, const TrackFrames& frames, const double* sizes,
                 const double* weights, const double* rows, const int64_t* chosen, const bool* breaks,
                 const TrackPicture& picture, int64_t* side, double* states, double* robust, double* information);

// The same estimate over a window of the past of a stream, one person.
class TrackStream {
 public:
  TrackStream(const TrackSettings& settings, const TrackPhoto& photo, int lag);
  ~TrackStream();
  void reset();

  struct Step {
    int64_t frame;  // which frame this is the estimate of, -1 for none yet
    double time, size, state[kTrackState], information[3], robust[kTrackPoints];
    double matrix[6], residual;  // photo -> frame, rows of three; weighted rms of the keypoints, pixels
    int side;
    bool broke;  // whether the person was somewhere else in the frame before
  };
  Step step(double time, const double* points, const double* scores, const bool* seen, const TrackPicture& picture);
  Step at(int64_t back) const;  // of the frame that came so many frames before the last one

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tpc
