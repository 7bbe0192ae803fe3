/* A function with a name of its own, and enough around it to keep the compiler busy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN(a, b) a##b
#define NAMED(name) JOIN(name, _sum)
#define FOUR(x) x x x x

unsigned NAMED(NAME)(unsigned sum)
{
    char buffer[64];
    FOUR(FOUR(FOUR(snprintf(buffer, sizeof buffer, "%u", sum); sum = sum * 31 + (unsigned)strlen(buffer);)))
    return sum;
}
