/* The least static program: says hello through the kernel and exits with the number of letters. */
static long call(long number, long a, long b, long c) {
    register long a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c, a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}
__attribute__((noinline)) long length(const char *text) {
    long size = 0;
    while (text[size]) size++;
    return size;
}
void _start(void) {
    static const char text[] = "hello\n";
    call(64, 1, (long)text, length(text));
    call(93, length(text), 0, 0);
}
