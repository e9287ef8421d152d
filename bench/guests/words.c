/* Text: words are formatted, hashed into a table, compared, copied, counted. A round is 10,000 words. */
#include "bench.h"
enum { BUCKETS = 4096 };
struct entry { struct entry *next; unsigned count; char text[16]; };
static struct entry *table[BUCKETS];
int main(int argc, char **argv) {
    uint64_t state = 11, total = 0;
    for (uint64_t n = rounds(argc, argv); n; n--) {
        for (int i = 0; i < 10000; i++) {
            char word[16];
            uint64_t r = step(&state);
            int length = 4 + (int)(r & 7);
            for (int j = 0; j < length; j++) word[j] = (char)('a' + (r >> (8 + 3 * j) & 7));
            word[length > 5 ? 5 : length] = 0;
            uint32_t hash = 2166136261u;
            for (const char *p = word; *p; p++) hash = (hash ^ (unsigned char)*p) * 16777619u;
            struct entry **at = &table[hash % BUCKETS];
            while (*at && strcmp((*at)->text, word)) at = &(*at)->next;
            if (!*at) { *at = calloc(1, sizeof **at); strcpy((*at)->text, word); }
            total = total * 31 + ++(*at)->count + strlen(word);
        }
        char line[200];
        memset(line, ' ', sizeof line);
        for (int i = 0; i < 200; i++) {
            memmove(line + 1, line, 180);
            line[0] = (char)('a' + (step(&state) & 15));
            total += (uint64_t)(memchr(line, 'c', 180) ? 1 : 0);
        }
    }
    return answer(total);
}
