#define PARROT_ISA amxbf16
#define PARROT_TABLE kAmxBf16
#define PARROT_NAME "amx-bf16"
#include "table.h"
