"""The specification of `tpc_fast.ops.track_stream`: a window of the past, estimated again with every frame, float64."""

import dataclasses

import numpy as np

from tpc_fast.naive import track as naive


class Streams:
    """One stream per person; answers as the compiled core's."""

    def __init__(self, photos, c, rates, lag):
        self.streams = [Stream(photo, c, rates, lag) for photo in photos]
        self.lag, self.points = lag, c.tolerance.shape

    def reset(self):
        for stream in self.streams:
            stream.reset()

    def step(self, time, points, scores, seen, picture=None):
        """points [P, K, 2], scores, seen [P, K] -> side, breaks, size, residual, states, information, robust weights,
        matrices."""
        rows = zip(self.streams, points, scores, seen, strict=True)
        return self._gather([stream.step(time, y[:, 0] + 1j * y[:, 1], s, has, picture) for stream, y, s, has in rows])

    def at(self, back):
        return self._gather([(*stream.at(back), False) for stream in self.streams])

    def _gather(self, steps):
        tails = ((), (), (), (), (4,), (3,), self.points, (2, 3))
        types = (np.int64, bool, *6 * (float,))
        return tuple(
            np.array([step[i] for step in steps], types[n]).reshape(len(steps), *tails[n])
            for n, i in enumerate((1, 9, 3, 7, 4, 5, 6, 8))
        )


class Stream:
    """One person. Lists have one item per frame of the window."""

    def __init__(self, photo, c, rates, lag):
        self.photo, self.c, self.rates, self.lag = photo, c, rates, lag
        self.reset()

    def reset(self):
        self.first = 0  # the number of the window's first frame
        self.frames = []  # (driving, scores [2, K], common [2, K])
        self.hidden = []  # bool [K], beyond the picture
        self.alone, self.rows, self.values, self.origins = [], [], [], []
        self.times, self.sizes, self.frame_weight = [], [], []
        self.chosen, self.side, self.stretch = (np.zeros(0, int) for _ in range(3))
        self.states, self.home = np.zeros((0, 4)), np.zeros((0, 4))
        self.prior = self.last_output = None
        self.last_node = None  # when a candidate was last chosen; None: never

    def step(self, time, driving, scores, seen, picture=None):
        c, least = self.c, max(3, self.lag + 2)
        while len(self.times) + 1 > least and (
            len(self.times) + 1 > max(c.window_frames, least) or time - self.times[0] > c.window_seconds
        ):
            self.forget()
        self.append(time, driving, scores, seen)
        self.estimate(picture)
        out = (*self.at(self.lag), False)
        if out[0] >= 0:
            now = np.array([0.0, *out[4]])
            if self.last_output is not None:
                was, when = self.last_output
                out = (*out[:9], step_broken(was, now, out[2] - when, out[3], c))
            self.last_output = now, out[2]
        return out

    def at(self, back):
        """frame, side, time, size, state, information, robust weights, residual, matrix; frame -1 for none."""
        f = len(self.times) - 1 - back
        if f < 0:
            return -1, 0, 0.0, 0.0, np.zeros(4), np.zeros(3), np.zeros(self.c.tolerance.shape), 0.0, np.zeros((2, 3))
        here = slice(f, f + 1)
        points, weights, driving, common = (a[here] for a in self.data())
        tolerance = self.c.tolerance * self.sizes[f]
        counted = common & (weights > 0)
        robust = naive.robust_weights(points, driving, counted, self.states[here], tolerance, self.c)
        robust[:, self.photo.assumed] = 0
        known = naive.information(points, weights, robust, self.c)[0]
        scores = self.frames[f][1][self.side[f]][None]
        residual = naive.residuals(
            self.photo, driving, scores, common, self.side[here], self.states[here], robust, self.c
        )[0]  # fmt: skip
        row = self.first + f, self.side[f], self.times[f], self.sizes[f], self.states[f]
        return *row, known, robust[0], residual, self.photo.matrices(self.states[f])

    def append(self, time, driving, scores, seen):
        c, photo, n = self.c, self.photo, len(self.times)
        common = seen & photo.seen
        scores = np.where(common, np.minimum(np.minimum(photo.scores, scores), 1), 0)
        alone = naive.pair_ratio(photo.sides[0], driving, common[0], c.size_parts)
        self.alone.append(alone)
        times = [*self.times, time]
        near = [
            self.alone[f]
            for f in range(max(n - c.size_frames, 0), n + 1)
            if time - times[f] <= c.size_seconds and self.alone[f][0] > 0
        ]
        otherwise = self.sizes[-1] if n else photo.size
        size = naive.weighted_median(*np.array(near).T) if near else otherwise
        weight = np.clip((time - self.times[-1]) / c.correlation_seconds, c.least_weight, 1) if n else 1.0
        rows = naive.candidates(photo, scores, driving, common, size, weight, c)
        earlier = [
            (self.first + f, self.rows[f], self.values[f], self.times[f], self.sizes[f])
            for f in range(n - 1, -1, -1)
            if len(self.rows[f])
        ]
        values, origins = naive.best_ways(rows, time, size, earlier[: c.path_frames], c)
        self.frames.append((driving, scores, common))
        self.hidden.append(np.zeros(common.shape[1], bool))
        self.times.append(time)
        self.sizes.append(size)
        self.frame_weight.append(weight)
        self.rows.append(rows)
        self.values.append(values)
        self.origins.append(origins)

    def path(self):
        """As `naive.best_path`, of the window."""
        count = len(self.times)
        chosen, breaks = np.full(count, -1), np.zeros(count, bool)
        if not any(len(rows) for rows in self.rows):
            return chosen, breaks
        f, at = naive.best_end(self.values)
        while f >= 0:
            chosen[f] = at
            node, before = self.origins[f][at]
            g = node - self.first if node >= 0 else -1
            if g >= 0:
                size, dt = np.sqrt(self.sizes[f] * self.sizes[g]), self.times[f] - self.times[g]
                breaks[f] = step_broken(self.rows[g][before], self.rows[f][at], dt, size, self.c)
            f, at = g, before
        return chosen, breaks

    def data(self):
        """points, weights, driving, common [F, K], on each frame's side."""
        rows = [
            (self.photo.sides[s], scores[s] * self.c.part_weights, driving, common[s] & ~hidden)
            for s, (driving, scores, common), hidden in zip(self.side, self.frames, self.hidden, strict=True)
        ]
        return tuple(np.array(a) for a in zip(*rows, strict=True))

    def estimate(self, picture):
        c, n = self.c, len(self.times) - 1
        times, sizes = np.array(self.times), np.array(self.sizes)
        chosen, breaks = self.path()
        was_side, was_stretch, before = self.side, self.stretch, self.states
        warm = n > 0 and (chosen[:n] == self.chosen[:n]).all()
        nodes = np.flatnonzero(chosen >= 0)
        driving, common = (np.array([frame[i] for frame in self.frames]) for i in (0, 2))
        # A keypoint, where there was never more to go by: the place is where it is, as in a whole clip.
        lone = self.last_node is None and not len(nodes) and (common[:, 0] * c.part_weights).any()
        warm = warm and not lone
        if len(nodes) or n == 0 or lone:
            self.side, self.stretch, self.states, self.home = naive.start(
                self.photo, self.rows, times, chosen, breaks, driving, common, c
            )
        else:  # nothing to go by in the whole window: as before
            self.side, self.stretch = np.append(was_side, was_side[-1]), np.append(was_stretch, was_stretch[-1])
            self.states, self.home = np.vstack([before, before[-1:]]), np.vstack([self.home, np.full((1, 4), np.nan)])
        if len(nodes):
            first = nodes[0]
            if first > 0:  # what lies before the first candidate stays as it was, and may have been somewhere else
                row, last_kept = self.rows[first][chosen[first]], before[first - 1]
                last_row = np.array([row[0], *last_kept])
                since = 0.0 if self.last_node is None else self.last_node
                away = step_broken(last_row, row, times[first] - min(since, times[first]), sizes[first], c)
                self.side[:first], self.states[:first] = was_side[:first], before[:first]
                self.home[:first] = before[:first]
                self.stretch[:first] = -1 if away else self.stretch[first]
                same = (self.stretch == self.stretch[first]) & (np.arange(n + 1) >= first)
                turn(self.states, np.flatnonzero(same), last_kept)
            if warm:
                same = self.stretch[1:n] == self.stretch[: n - 1]
                warm = (self.side[:n] == was_side).all() and ((was_stretch[1:] == was_stretch[:-1]) == same).all()
            if warm:
                self.states[:n] = before
                if self.stretch[n] == self.stretch[n - 1]:
                    turn(self.states, np.array([n]), self.states[n - 1])
            elif self.prior is not None:
                was, now = (np.array([0.0, *x]) for x in (self.prior[2][0], self.states[0]))
                if step_broken(was, now, 0.0, sizes[0], c):
                    self.prior = None
                else:
                    turn(self.states, np.flatnonzero(self.stretch == self.stretch[0]), self.prior[2][0])
            self.last_node = times[nodes[-1]]
        self.home[:, 1] += 2 * np.pi * np.round((self.states[:, 1] - self.home[:, 1]) / (2 * np.pi))
        self.chosen = chosen
        settings = dataclasses.replace(c, iterations=c.warm_iterations) if warm else c
        if not warm:
            self.hidden = [np.zeros(len(hidden), bool) for hidden in self.hidden]
        points, weights, driving, common = self.data()
        self.states, _, hidden = naive.refine_shown(
            self.states, self.home, times, self.stretch, points, weights, driving, common, sizes,
            np.array(self.frame_weight), self.rates, settings, self.prior, picture
        )  # fmt: skip
        self.hidden = [before | now for before, now in zip(self.hidden, hidden, strict=True)]

    def forget(self):
        """Drops the first frame; what it said of the next two becomes a prior (the Schur complement of its part)."""
        n, c = min(len(self.times), 3), self.c
        times, sizes, x = np.array(self.times[:n]), np.array(self.sizes[:n]), self.states[:n]
        points, weights, driving, common = (a[:n] for a in self.data())
        weights = np.where(common, weights * np.array(self.frame_weight[:n])[:, None], 0)
        weights[1:] = 0  # the others' keypoints are still to be looked at
        terms = naive.prior_terms(times, self.stretch[:n], sizes, self.rates, c)
        terms[0][1:] = 0  # and the links beyond
        band, vector = naive.normal_equations(
            x, points, weights, np.where(common, driving, 0), c.tolerance * sizes[:, None],
            terms, self.prior, c
        )  # fmt: skip
        matrix = np.zeros((4 * n, 4 * n))
        for d in range(9):
            for j in range(d, 4 * n):
                matrix[j - d, j] = matrix[j, j - d] = band[8 - d, j]
        unit = np.array([1, 1, sizes[0], sizes[0]])
        matrix[range(4), range(4)] += c.ridge / unit**2
        if np.isfinite(self.home[0, 0]):
            matrix[range(4), range(4)] += c.candidate_weight / unit**2
            vector[:4] -= c.candidate_weight / unit**2 * (x[0] - self.home[0])
        share = np.linalg.solve(matrix[:4, :4], matrix[:4, 4:]).T
        self.prior = np.zeros((8, 8)), np.zeros(8), np.zeros((2, 4))
        m = 4 * n - 4
        self.prior[0][:m, :m] = matrix[4:, 4:] - share @ matrix[:4, 4:]
        self.prior[1][:m] = vector[4:] - share @ vector[:4]
        self.prior[2][: n - 1] = x[1:]
        self.first += 1
        for items in (
            self.frames, self.hidden, self.alone, self.rows, self.values, self.origins, self.times, self.sizes,
            self.frame_weight
        ):  # fmt: skip
            del items[0]
        self.chosen, self.side, self.stretch, self.states, self.home = (
            a[1:] for a in (self.chosen, self.side, self.stretch, self.states, self.home)
        )


def step_broken(before, after, dt, size, c):
    return bool(naive.step_price(before, after, dt, size, c)[1])


def turn(states, frames, to):
    """Adds the whole turns to the frames' angles that bring the first closest to the state `to`."""
    states[frames, 1] += 2 * np.pi * np.round((to[1] - states[frames[0], 1]) / (2 * np.pi))
