/* load: both ends of a copier under test.  It starts COMMAND with a left side
 * on descriptors 0 and 1 and a right side on 6 and 7, sends bytes into one side,
 * receives them from the other, and prints the results as one line of JSON.
 *
 *   cc -O2 -pthread -o load load.c
 *   ./load MODE [-l KIND] [-r KIND] [-n NUMBER] [-t SECONDS] [-- COMMAND ...]
 *
 * MODE  bulk    NUMBER bytes from left to right
 *       both    NUMBER bytes in each direction at the same time
 *       ping    NUMBER round trips of one byte
 *       start   one byte is sent before COMMAND starts; measures when it comes out
 *       shell   runs COMMAND, a shell with a pipeline in which "load filter -- X" stands
 *               for X; measures the time, and the processor time of X alone
 * KIND  pipe, unix, tcp; largepipe is a pipe of 1 MiB; on the left for bulk also the
 *       path of a file, which is written unless it has the right length
 * -t    after so long COMMAND is taken to hang, and is killed
 *
 * Memory is private memory: Pss_Anon of /proc/PID/smaps_rollup.  It is measured while
 * COMMAND has nothing to do: in start a moment after the byte has come out; in bulk,
 * both and ping after the last byte and before the end of file.
 *
 * Without COMMAND the left side is joined to itself, which measures the load itself.
 * The clock of bulk and both starts when a tenth of the bytes has come out, so that
 * the start and the warm-up of COMMAND do not count, and stops at the last byte.
 * Every byte is compared. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256 * 1024) /* fits into the processor's cache */
#define PERIOD 262147      /* a prime: no block size of a copier divides it */
#define WARM 10            /* one of so many bytes is copied before the clock starts */
#define WARMUP 100         /* round trips before the first that counts */
#define MOMENT 200000      /* microseconds until a copier has nothing more to do */
#define LARGE (1 << 20)    /* the largest capacity of an ordinary user's pipe */

static unsigned char pattern[PERIOD + PIECE];
static pid_t copier;
static clockid_t copier_clock;
static char failure[100]; /* the first one */

static void fail(const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  if (!*failure) vsnprintf(failure, sizeof failure, format, rest);
  va_end(rest);
}

static void die(const char *call) { perror(call); exit(2); }

static double seconds(clockid_t clock) {
  struct timespec t;
  return clock_gettime(clock, &t) ? 0 : t.tv_sec + t.tv_nsec * 1e-9;
}
static double now(void) { return seconds(CLOCK_MONOTONIC); }
static double cpu(void) { return copier ? seconds(copier_clock) : 0; }

/* The largest private memory of the copier that was measured, in bytes. */
static long memory;
static void look_at_memory(void) {
  char path[64], line[256];
  long kilobytes;
  if (!copier) return;
  snprintf(path, sizeof path, "/proc/%d/smaps_rollup", copier);
  FILE *map = fopen(path, "r");
  while (map && fgets(line, sizeof line, map))
    if (sscanf(line, "Pss_Anon: %ld kB", &kilobytes) == 1 && kilobytes * 1024 > memory)
      memory = kilobytes * 1024;
  if (map) fclose(map);
}

static void late(int signal) {
  (void)signal;
  if (!copier || *failure) _exit(3);
  fail("hangs");
  kill(-copier, SIGKILL); /* a pipeline is a process group */
  kill(copier, SIGKILL);  /* now all reads below end */
  alarm(5);
}

/* ---- The two sides. */

struct side { int in, out, their_in, their_out; };

static void tcp_pair(int s[2]) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof a;
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  s[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (void *)&a, length) || listen(listener, 1)) die("listen");
  if (getsockname(listener, (void *)&a, &length)) die("getsockname");
  if (connect(s[0], (void *)&a, length)) die("connect");
  s[1] = accept4(listener, 0, 0, SOCK_CLOEXEC);
  setsockopt(s[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(s[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  close(listener);
}

static int open_file(const char *path, uint64_t length) {
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct stat s;
  if (fd < 0 || fstat(fd, &s)) die(path);
  if ((uint64_t)s.st_size != length) {
    if (ftruncate(fd, 0)) die(path);
    for (uint64_t at = 0; at < length;) {
      uint64_t left = length - at;
      ssize_t k = write(fd, pattern + at % PERIOD, left < PIECE ? left : PIECE);
      if (k <= 0) die(path);
      at += k;
    }
    fsync(fd); /* otherwise the disk is still busy when others are measured */
  }
  close(fd);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static struct side make_side(const char *kind, uint64_t length) {
  int there[2], back[2];
  if (!strcmp(kind, "tcp")) tcp_pair(there);
  else if (!strcmp(kind, "unix")) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, there)) die("socketpair");
  } else {
    int large = !strcmp(kind, "largepipe");
    if (pipe2(back, O_CLOEXEC)) die("pipe");
    if (!large && strcmp(kind, "pipe")) return (struct side){back[0], -1, open_file(kind, length), back[1]};
    if (pipe2(there, O_CLOEXEC)) die("pipe");
    if (large) fcntl(there[1], F_SETPIPE_SZ, LARGE), fcntl(back[1], F_SETPIPE_SZ, LARGE);
    return (struct side){back[0], there[1], there[0], back[1]};
  }
  return (struct side){there[0], fcntl(there[0], F_DUPFD_CLOEXEC, 0), there[1],
                       fcntl(there[1], F_DUPFD_CLOEXEC, 0)};
}

static void finish(int fd) { shutdown(fd, SHUT_WR); close(fd); }

/* ---- Streams of bytes. */

struct flow { int into, outof; uint64_t length, came, seed; sem_t over; };

/* The clock's start and end, for all streams together. */
static uint64_t due, arrived, warm;
static double since, until, cpu_since, cpu_until;

static void clock_bytes(uint64_t k) {
  uint64_t now_arrived = __atomic_add_fetch(&arrived, k, __ATOMIC_SEQ_CST);
  uint64_t start = due / WARM + 1;
  if (now_arrived >= start && now_arrived - k < start) {
    warm = now_arrived;
    since = now(), cpu_since = cpu();
  }
  if (now_arrived >= due) until = now(), cpu_until = cpu();
}

static void *send_all(void *p) {
  struct flow *f = p;
  for (uint64_t at = 0; at < f->length;) {
    uint64_t left = f->length - at;
    ssize_t k = write(f->into, pattern + (f->seed + at) % PERIOD, left < PIECE ? left : PIECE);
    if (k <= 0) { fail("took only %llu bytes", (unsigned long long)at); break; }
    at += k;
  }
  /* Waits until all bytes have arrived and COMMAND waits for more; some programs write the rest only at the end of file. */
  struct timespec late;
  clock_gettime(CLOCK_REALTIME, &late);
  late.tv_nsec += MOMENT * 1000;
  late.tv_sec += late.tv_nsec / 1000000000, late.tv_nsec %= 1000000000;
  sem_timedwait(&f->over, &late);
  look_at_memory();
  finish(f->into);
  return 0;
}

static void *take_all(void *p) {
  struct flow *f = p;
  unsigned char *bytes = malloc(PIECE);
  for (ssize_t k; (k = read(f->outof, bytes, PIECE)) > 0; f->came += k) {
    uint64_t left = f->came < f->length ? f->length - f->came : 0;
    if (left > (uint64_t)k) left = k;
    if (memcmp(bytes, pattern + (f->seed + f->came) % PERIOD, left))
      fail("wrong bytes after %llu", (unsigned long long)f->came);
    clock_bytes(k);
    if (f->came + k >= f->length) sem_post(&f->over);
  }
  sem_post(&f->over); /* in case it has ended too early */
  if (f->came != f->length)
    fail("%llu bytes of %llu", (unsigned long long)f->came, (unsigned long long)f->length);
  free(bytes);
  return 0;
}

static void stream(struct flow *f, int flows) {
  pthread_t t[4];
  due = f->length * flows;
  for (int i = 0; i < flows; i++) {
    sem_init(&f[i].over, 0, 0);
    pthread_create(&t[2 * i], 0, take_all, &f[i]);
    if (f[i].into >= 0) pthread_create(&t[2 * i + 1], 0, send_all, &f[i]);
  }
  for (int i = 0; i < flows; i++) {
    pthread_join(t[2 * i], 0);
    if (f[i].into >= 0) pthread_join(t[2 * i + 1], 0);
  }
  printf("\"bytes\":%llu,\"seconds\":%.6f,\"cpu\":%.6f,", (unsigned long long)(arrived - warm),
         until - since, cpu_until - cpu_since);
}

/* ---- One byte at a time. */

static int pass(int into, int outof) {
  char c = 'x';
  return write(into, &c, 1) == 1 && read(outof, &c, 1) == 1;
}

static int ascending(const void *a, const void *b) {
  double x = *(double *)a, y = *(double *)b;
  return (x > y) - (x < y);
}

static void ping(struct side l, struct side r, int count) {
  double *took = calloc(count + 1, sizeof *took);
  for (int i = -WARMUP; i < count; i++) {
    double sent = now();
    if (!pass(l.out, r.in) || !pass(r.out, l.in)) { fail("no answer"); break; }
    if (i >= 0) took[i] = now() - sent;
  }
  qsort(took, count, sizeof *took, ascending);
  printf("\"p50\":%.1f,\"p99\":%.1f,", took[count / 2] * 1e6, took[count * 99 / 100] * 1e6);
  free(took);
}

/* Replaces COMMAND in a pipeline, and writes the processor time that it used to descriptor 9. */
struct used { double cpu; int status; };

static int filter(char **command) {
  struct used used = {0};
  struct rusage all;
  pid_t child = fork();
  if (!child) {
    close(9);
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
  }
  close(0), close(1); /* so that it keeps no end open */
  wait4(child, &used.status, 0, &all);
  used.cpu = all.ru_utime.tv_sec + all.ru_stime.tv_sec +
             (all.ru_utime.tv_usec + all.ru_stime.tv_usec) * 1e-6;
  return write(9, &used, sizeof used) == sizeof used ? 0 : 1;
}

static void shell(char **command, uint64_t bytes) {
  int told[2];
  struct used used = {0};
  if (pipe2(told, O_CLOEXEC)) die("pipe");
  double started = now();
  if (!(copier = fork())) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    dup2(told[1], 9);
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
  }
  close(told[1]);
  int status = 0, all = read(told[0], &used, sizeof used) == sizeof used;
  wait4(copier, &status, 0, 0);
  if (!all) fail("the filter was not run");
  if (!status) status = used.status;
  printf("{\"bytes\":%llu,\"seconds\":%.6f,\"cpu\":%.6f,\"exit\":%d,\"failure\":",
         (unsigned long long)bytes, now() - started, used.cpu,
         WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  printf(*failure ? "\"%s\"}\n" : "null}\n", failure);
}

int main(int argc, char **argv) {
  const char *left = "pipe", *right = "pipe";
  uint64_t number = 1;
  int option;
  if (argc < 2) { fprintf(stderr, "load: the head of load.c tells how\n"); return 2; }
  char *mode = argv[1];
  optind = 2;
  while ((option = getopt(argc, argv, "+l:r:n:t:")) > 0) {
    if (option == 'l') left = optarg;
    else if (option == 'r') right = optarg;
    else if (option == 'n') number = strtoull(optarg, 0, 10);
    else if (option == 't') alarm(atoi(optarg));
    else return 2;
  }
  char **command = argv + optind;
  if (!strcmp(mode, "filter")) return filter(command);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGALRM, late);
  if (!strcmp(mode, "shell")) { shell(command, number); return *failure != 0; }
  /* Occupies all numbers that COMMAND gets, so that no other descriptor has one of them. */
  for (int fd = 0; fd < 10;)
    if ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) die("/dev/null");

  uint64_t state = 88172645463325252u;
  for (int i = 0; i < PERIOD; i++) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* xorshift64, Marsaglia */
    pattern[i] = state;
  }
  memcpy(pattern + PERIOD, pattern, PIECE);
  struct side l = make_side(left, number), r = make_side(right, number);
  if (!strcmp(mode, "start") && write(l.out, "x", 1) != 1) die("write");

  double started = now();
  if (*command && !(copier = fork())) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    dup2(l.their_in, 0), dup2(l.their_out, 1), dup2(r.their_in, 6), dup2(r.their_out, 7);
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
  }
  if (copier) {
    clock_getcpuclockid(copier, &copier_clock);
    close(l.their_in), close(l.their_out), close(r.their_in), close(r.their_out);
  } else {
    /* The right side becomes the far end of the left one. */
    r = (struct side){l.their_in, l.their_out, -1, -1};
  }

  printf("{");
  if (!strcmp(mode, "bulk")) {
    struct flow f = {.into = l.out, .outof = r.in, .length = number};
    stream(&f, 1);
  } else if (!strcmp(mode, "both")) {
    struct flow f[2] = {{.into = l.out, .outof = r.in, .length = number},
                        {.into = r.out, .outof = l.in, .length = number, .seed = 1000}};
    stream(f, 2);
  } else if (!strcmp(mode, "ping")) ping(l, r, number);
  else if (!strcmp(mode, "start")) {
    struct pollfd either[2] = {{l.in, POLLIN, 0}, {r.in, POLLIN, 0}};
    char c;
    ssize_t came = 0;
    for (int i = 0, sides = 2; came != 1 && sides && poll(either, 2, -1) > 0; i = !i)
      if (either[i].revents && (came = read(either[i].fd, &c, 1)) != 1) {
        either[i].fd = -1; /* a filter has closed this side */
        sides--;
      }
    if (came != 1) fail("no byte came");
    printf("\"start\":%.3f,", (now() - started) * 1e3);
  } else { fprintf(stderr, "load: %s is no mode\n", mode); return 2; }

  int status = 0;
  if (copier) {
    if (!strcmp(mode, "start")) usleep(MOMENT);
    if (strcmp(mode, "bulk") && strcmp(mode, "both")) look_at_memory();
    char rest[4096];
    finish(l.out), finish(r.out);
    while (read(l.in, rest, sizeof rest) > 0) {}
    while (read(r.in, rest, sizeof rest) > 0) {}
    wait4(copier, &status, 0, 0);
  }
  printf("\"memory\":%ld,\"exit\":%d,\"failure\":", memory,
         WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  printf(*failure ? "\"%s\"}\n" : "null}\n", failure);
  return *failure != 0;
}
