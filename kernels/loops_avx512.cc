#if defined(__x86_64__)
#define SHOAL_LOOPS_FUNCTION Avx512Loops
#include "kernels/loops_impl.h"
#endif  // __x86_64__
