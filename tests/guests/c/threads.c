/* Threads: mutex, condition, barrier, read-write lock, semaphore, once, keys, thread-local storage, atomics. */
#include "check.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { THREADS = 4, ROUNDS = 5000, QUEUE = 16 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER, not_empty = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static sem_t semaphore;
static uint64_t locked, queue[QUEUE], sum;
static int head, count, once_calls;
static atomic_uint_fast64_t atomic_add, atomic_xor, atomic_max;
static atomic_uchar byte_counter;
static atomic_flag spin = ATOMIC_FLAG_INIT;
static uint64_t spun, written;
static _Thread_local uint64_t local = 5;
static _Thread_local char local_text[100] = "initial";
static atomic_int destroyed;

static void destroy(void *value) { atomic_fetch_add(&destroyed, (int)(intptr_t)value); }
static void init(void) { once_calls++; pthread_key_create(&key, destroy); }
static void *work(void *argument) {
    uint64_t id = (uintptr_t)argument, state = id + 1;
    pthread_once(&once, init);
    pthread_setspecific(key, (void *)(id + 1));
    if (strcmp(local_text, "initial")) abort();
    snprintf(local_text, sizeof local_text, "thread %d", (int)id);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex); locked += id + 1; pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&atomic_add, id * 2 + 1);
        atomic_fetch_xor(&atomic_xor, (uint64_t)i << id);
        atomic_fetch_add(&byte_counter, 1);
        uint64_t candidate = next_random(&state), seen = atomic_load(&atomic_max);
        while (candidate > seen && !atomic_compare_exchange_weak(&atomic_max, &seen, candidate)) ;
        while (atomic_flag_test_and_set_explicit(&spin, memory_order_acquire)) ;
        spun++;
        atomic_flag_clear_explicit(&spin, memory_order_release);
        if (i % 64 == 0) { pthread_rwlock_wrlock(&rwlock); written += id; pthread_rwlock_unlock(&rwlock); }
        else if (i % 8 == 0) { pthread_rwlock_rdlock(&rwlock); local += written != ~0ull; pthread_rwlock_unlock(&rwlock); }
        local += (uint64_t)i;
    }
    sem_post(&semaphore);
    char expected[100];
    snprintf(expected, sizeof expected, "thread %d", (int)id);
    if (strcmp(local_text, expected)) abort();
    return (void *)(uintptr_t)local;
}
static void *produce(void *argument) {
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        while (count == QUEUE) pthread_cond_wait(&not_full, &mutex);
        queue[(head + count++) % QUEUE] = i * ((uintptr_t)argument + 1);
        pthread_cond_signal(&not_empty);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
static void *consume(void *argument) {
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        while (!count) pthread_cond_wait(&not_empty, &mutex);
        sum += queue[head];
        head = (head + 1) % QUEUE, count--;
        pthread_cond_signal(&not_full);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&semaphore, 0, 0);
    for (uintptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++) sem_wait(&semaphore);
    for (int i = 0; i < THREADS; i++) { void *result; pthread_join(threads[i], &result); mix((uintptr_t)result); }
    printf("locked %llu add %llu xor %llx byte %d spun %llu once %d destroyed %d\n", (unsigned long long)locked,
        (unsigned long long)atomic_add, (unsigned long long)atomic_xor, byte_counter, (unsigned long long)spun, once_calls, destroyed);
    mix(atomic_max); mix(written);
    for (uintptr_t i = 0; i < 2; i++) { pthread_create(&threads[i], NULL, produce, (void *)i); pthread_create(&threads[i + 2], NULL, consume, NULL); }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("sum %llu\n", (unsigned long long)sum);
    for (int round = 0; round < 100; round++) {
        for (uintptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, (void *(*)(void *))(uintptr_t)pthread_self, NULL);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    }
    printf("local %llu\n", (unsigned long long)local);
    return report("threads");
}
