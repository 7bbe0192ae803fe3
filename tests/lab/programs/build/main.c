#include <stdio.h>

#define ALL(part) USE(part##_1) USE(part##_2) USE(part##_3) USE(part##_4) USE(part##_5) USE(part##_6) USE(part##_7) USE(part##_8)

#define USE(name) unsigned name##_sum(unsigned sum);
ALL(part1) ALL(part2) ALL(part3)
#undef USE

int main(void)
{
    unsigned sum = 1;
#define USE(name) printf("%s %u\n", #name, sum = name##_sum(sum));
    ALL(part1) ALL(part2) ALL(part3)
    return 0;
}
