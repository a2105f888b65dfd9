#define PARROT_ISA avx512bf16
#define PARROT_TABLE kAvx512Bf16
#define PARROT_NAME "avx512-bf16"
#include "table.h"
