#define SHOAL_LOOPS_FUNCTION ScalarLoops
#include "kernels/loops_impl.h"
