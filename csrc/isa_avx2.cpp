#define PARROT_ISA avx2
#define PARROT_TABLE kAvx2
#define PARROT_NAME "avx2"
#include "table.h"
