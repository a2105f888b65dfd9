#define PARROT_ISA portable
#define PARROT_TABLE kPortable
#define PARROT_NAME "portable"
#include "table.h"
