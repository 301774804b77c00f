// A small thread pool that survives fork(): an OpenMP runtime shared with torch does not.
#pragma once

#include <cstdint>
#include <functional>

namespace tpc {

// How many threads parallel_for may use, the calling thread included.
int num_threads();
void set_num_threads(int count);

// Whether the calling thread shares its work with others: off where work is shared out frame by frame already, since
// waiting for helpers costs more than they bring when all cores are busy.
void set_sharing(bool on);

// Calls body(begin, end) on disjoint chunks that cover [0, count): of `grain` each, or a single one when run serially.
// Chunks are handed out dynamically. A call from inside a body, or while another thread's call is running, is serial.
// What a body throws, the first of several, is thrown here when all threads have ended; chunks that have not begun are
// left out.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace tpc
