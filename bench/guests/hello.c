/* The least a program can do. */
#include <stdio.h>
int main(void) { return puts("hello") < 0; }
