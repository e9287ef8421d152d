/* The C library's string functions at every alignment and length, and misaligned accesses across pages. */
#define _GNU_SOURCE
#include "check.h"
#include <ctype.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <wchar.h>

struct __attribute__((packed)) crooked { uint8_t a; uint64_t b; uint16_t c; uint32_t d; double e; float f; };
int main(void) {
    static char from[600], to[600];
    for (int i = 0; i < 600; i++) from[i] = (char)(i % 251 + 1);
    for (int a = 0; a < 17; a++)
        for (int b = 0; b < 17; b += 3)
            for (int length = 0; length < 140; length += 1 + length / 16) {
                memset(to, 0x7e, sizeof to);
                memcpy(to + b, from + a, (size_t)length); mix_bytes(to, 180);
                memmove(to + b + 5, to + b, (size_t)length); mix_bytes(to, 180);
                to[b + length] = 0;
                mix(strlen(to + b)); mix((uint64_t)(strcmp(to + b, from + a) > 0)); mix((uint64_t)(memcmp(to, from, 20) > 0));
                mix((uint64_t)((char *)memchr(from + a, 90, 200) - from)); mix((uint64_t)(strchrnul(to + b, 'Z') - to));
            }
    report("strings");
    char *page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int offset = 4096 - 12; offset < 4096 + 4; offset++) {
        struct crooked *c = (void *)(page + offset);
        *c = (struct crooked){1, 0x1122334455667788u + (unsigned)offset, 0xbeef, 0xdeadbeef, offset * 1.5, offset * 0.25f};
        mix(c->b + c->c + c->d); mix((uint64_t)(c->e * 2 + c->f));
        *(volatile uint64_t *)(page + offset) += 3; *(volatile uint32_t *)(page + offset + 1) ^= 5;
        *(volatile uint16_t *)(page + offset + 3) -= 7; *(volatile double *)(page + offset + 8) = offset;
        mix_bytes(page + 4096 - 16, 48);
    }
    report("misaligned");
    char words[] = "the quick brown fox  jumps over\tthe lazy dog", *save, *word = strtok_r(words, " \t", &save);
    for (; word; word = strtok_r(NULL, " \t", &save)) { for (char *p = word; *p; p++) *p = (char)toupper(*p); printf("%s.", word); }
    wchar_t wide[40];
    swprintf(wide, 40, L"%ls-%d", L"wide", 42);
    printf("\n%ls %s %5.3s| %-8d| %+08.2f %#x %o %c %lu%% %n\n", wide, strstr("haystack needle", "need"), "abcdef", -42, 3.14159, 255, 8, 'z', 100ul, &(int){0});
    char *end;
    printf("%ld %s %llu %d\n", strtol("-123abc", &end, 10), end, strtoull("0xffffffffffffffff", NULL, 0), atoi("  77"));
    int a; unsigned b; char text[20]; double d;
    printf("%d", sscanf("12 ff word 2.5e3", "%d %x %19s %lf", &a, &b, text, &d));
    printf(" %d %u %s %g\n", a, b, text, d);
    return report("done");
}
