#ifndef SHOAL_LAUNCH_DOCTOR_H_
#define SHOAL_LAUNCH_DOCTOR_H_

#include "base/status.h"

namespace shoal::launch {

// doctor: prints what of this machine jobs can use, and of what they can't, why
// and what to do. Each GPU multiplies two matrices, and the result is compared
// with the CPU's. Blocks. `need_gpu`: not to have one is an error.
// Errors: kUnavailable (with need_gpu), kInternal (a GPU that computes
// wrongly).
Status RunDoctor(bool need_gpu);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_DOCTOR_H_
