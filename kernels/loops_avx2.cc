#if defined(__x86_64__)
#define SHOAL_LOOPS_FUNCTION Avx2Loops
#include "kernels/loops_impl.h"
#endif  // __x86_64__
