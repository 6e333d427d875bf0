/* Float32 multiply-adds that one thread of this machine can do at most: twelve independent sums in registers, enough to
   cover a latency of four at two per cycle. Prints GFLOP/s (a multiply-add counts as two), the best of five rounds.
   Compiled and run by peak.py. */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vector __attribute__((vector_size(BYTES)));

#define REPEAT(step) step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
#define DECLARE(i) vector sum##i = start + i;
#define MULTIPLY_ADD(i) sum##i = sum##i * scale + offset;
/* The compiler must take the sums for read and written here, in registers. */
#if defined(__x86_64__)
#define KEEP(i) __asm__ volatile("" : "+v"(sum##i));
#else
#define KEEP(i) __asm__ volatile("" : "+w"(sum##i));
#endif
#define ADD(i) total += sum##i[0];

int main(void) {
    const long count = 20000000;
    const vector start = {0}, scale = start + 1.0000001f, offset = start + 1e-9f;
    double best = 1e9;
    float total = 0;
    for (int round = 0; round < 5; ++round) {
        struct timespec begin, end;
        REPEAT(DECLARE)
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long n = 0; n < count; ++n) {
            REPEAT(MULTIPLY_ADD)
            REPEAT(KEEP)
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        const double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
        if (seconds < best) best = seconds;
        REPEAT(ADD)
    }
    printf("%.3f %g\n", (double)count * 12 * 2 * (BYTES / 4) / best / 1e9, (double)total);
    return 0;
}
