/* connections: both ends of a proxy under test.  One thread is the target, the others
 * are clients; it prints the results as one line of JSON.
 *
 *   cc -O2 -pthread -o connections connections.c
 *   ./connections bind PORT COMMAND ...       COMMAND gets a listening socket as 3
 *   ./connections MODE -p PROXY -t TARGET [-n NUMBER] [-c CLIENTS] [-i IDLE] [-s]
 *
 * MODE  churn   NUMBER connections, CLIENTS at a time: one byte in each direction, and
 *               the client closes it
 *       open    NUMBER connections, with one byte in each direction; prints a line when
 *               they are open, and keeps them until the end of standard input
 *       ping    NUMBER round trips of one byte, over one connection
 *       bulk    NUMBER bytes from the client to the target, over one connection
 *       paced   CLIENTS connections, each with a round trip of 64 bytes 20 times a
 *               second, for NUMBER seconds; -s: beside a stream
 * -i    IDLE connections in addition, opened before the measurement
 *
 * The first byte of a connection tells the target its purpose: 's' and eight bytes with
 * a length are followed by a stream, and the target sends a byte when it has arrived;
 * everything else is sent back.  (Nothing relies on half-close, which
 * systemd-socket-proxyd does not support.) */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256 * 1024)
#define MOST 65536       /* descriptors */
#define WARMUP 100       /* round trips before the first that counts */
#define INTERVAL 0.05    /* seconds between two messages of a paced connection */
#define MESSAGE 64

static int proxy, target, clients = 20;
static volatile int stopping;

static void die(const char *what) { perror(what); exit(2); }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_in at(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listener(int port, int flags) {
  struct sockaddr_in a = at(port);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) die("listen");
  return fd;
}

static int call(int flags) {
  struct sockaddr_in a = at(proxy);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
  return fd;
}

static void trip(int fd) {
  char c = 'x';
  if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1) die("no answer");
}

/* ---- The target. */

static void *take_stream(void *p) {
  int fd = (int)(intptr_t)p;
  char *bytes = malloc(PIECE);
  uint64_t length, came = 0;
  ssize_t k = recv(fd, &length, sizeof length, MSG_WAITALL);
  for (; k > 0 && came < length; came += k) k = read(fd, bytes, PIECE);
  if (k > 0 && write(fd, "x", 1) != 1) perror("target");
  close(fd);
  free(bytes);
  return 0;
}

static void *be_target(void *p) {
  static char known[MOST];
  int lfd = (int)(intptr_t)p, e = epoll_create1(EPOLL_CLOEXEC), one = 1;
  struct epoll_event events[256], event = {EPOLLIN, {.fd = lfd}};
  epoll_ctl(e, EPOLL_CTL_ADD, lfd, &event);
  for (;;) {
    int count = epoll_wait(e, events, 256, -1), waiting = 0;
    for (int i = 0; i < count; i++) {
      char bytes[4096];
      int fd = events[i].data.fd;
      if (fd == lfd) { waiting = 1; continue; }
      ssize_t k = recv(fd, bytes, known[fd] ? sizeof bytes : 1, MSG_DONTWAIT);
      if (k < 0 && errno == EAGAIN) continue;
      if (k > 0 && !known[fd] && *bytes == 's') {
        pthread_t t;
        epoll_ctl(e, EPOLL_CTL_DEL, fd, 0);
        pthread_create(&t, 0, take_stream, (void *)(intptr_t)fd);
        pthread_detach(t);
      } else if (k <= 0 || send(fd, bytes, k, MSG_NOSIGNAL) != k) close(fd);
      else known[fd] = 1;
    }
    for (int fd; waiting && (fd = accept4(lfd, 0, 0, SOCK_CLOEXEC)) >= 0;) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      known[fd] = 0;
      event.data.fd = fd;
      epoll_ctl(e, EPOLL_CTL_ADD, fd, &event);
    }
  }
  return 0;
}

/* ---- The clients. */

static int ascending(const void *a, const void *b) {
  double x = *(double *)a, y = *(double *)b;
  return (x > y) - (x < y);
}

static void tell_trips(double *took, long count) {
  if (!count) return;
  qsort(took, count, sizeof *took, ascending);
  printf("\"trips\":%ld,\"p50\":%.1f,\"p99\":%.1f,", count, took[count / 2] * 1e6,
         took[count * 99 / 100] * 1e6);
}

static void ping(long count) {
  double *took = calloc(count + 1, sizeof *took);
  int fd = call(0);
  for (long i = -WARMUP; i < count; i++) {
    double sent = now();
    trip(fd);
    if (i >= 0) took[i] = now() - sent;
  }
  tell_trips(took, count);
  free(took);
  close(fd);
}

static volatile uint64_t sent;

static void *stream(void *p) {
  uint64_t length = *(uint64_t *)p;
  char *bytes = calloc(1, PIECE), c, head[1 + sizeof length] = "s";
  int fd = call(0);
  memcpy(head + 1, &length, sizeof length);
  if (write(fd, head, sizeof head) != sizeof head) die("stream");
  for (sent = 0; sent < length && !stopping;) {
    uint64_t left = length - sent;
    ssize_t k = write(fd, bytes, left < PIECE ? left : PIECE);
    if (k <= 0) die("stream");
    sent += k;
  }
  if (!stopping && read(fd, &c, 1) != 1) die("the end of the stream");
  close(fd);
  free(bytes);
  return 0;
}

static void bulk(uint64_t length) {
  double since = now();
  stream(&length);
  printf("\"bytes\":%llu,\"seconds\":%.6f,", (unsigned long long)sent, now() - since);
}

static void churn(long count) {
  static char asked[MOST];
  int e = epoll_create1(EPOLL_CLOEXEC);
  long begun = 0, ended = 0;
  double since = now();
  while (ended < count) {
    for (; begun < count && begun - ended < clients; begun++) {
      int fd = call(SOCK_NONBLOCK);
      struct epoll_event event = {EPOLLOUT, {.fd = fd}};
      asked[fd] = 0;
      epoll_ctl(e, EPOLL_CTL_ADD, fd, &event);
    }
    struct epoll_event events[64];
    int ready = epoll_wait(e, events, 64, 10000);
    if (ready == 0) { fprintf(stderr, "%ld of %ld connections: it hangs\n", ended, count); exit(2); }
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      char c = 'x';
      if (!asked[fd]) {
        struct epoll_event event = {EPOLLIN, {.fd = fd}};
        if (write(fd, &c, 1) != 1) die("write");
        epoll_ctl(e, EPOLL_CTL_MOD, fd, &event);
        asked[fd] = 1;
      } else if (read(fd, &c, 1) != 1) die("no answer");
      else close(fd), ended++;
    }
  }
  printf("\"connections\":%ld,\"seconds\":%.6f,", count, now() - since);
}

struct paced { double due, sent; int fd, got, waits; };

static void paced(long duration, int streaming) {
  struct paced *all = calloc(clients, sizeof *all);
  double *took = calloc(clients * (duration / INTERVAL + 2), sizeof *took);
  long count = 0;
  int e = epoll_create1(EPOLL_CLOEXEC), next = 0;
  for (int i = 0; i < clients; i++) {
    struct epoll_event event = {EPOLLIN, {.u32 = i}};
    all[i].fd = call(0);
    trip(all[i].fd);
    fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(e, EPOLL_CTL_ADD, all[i].fd, &event);
  }
  uint64_t endless = UINT64_MAX;
  pthread_t t;
  if (streaming) pthread_create(&t, 0, stream, &endless), usleep(300000);
  uint64_t before = sent;
  double since = now(), until = since + duration, start = since;
  for (int i = 0; i < clients; i++) all[i].due = start + i * INTERVAL / clients;
  for (double time = start; time < until;) {
    struct epoll_event events[64];
    double wait = all[next].due - time;
    struct timespec pause = {0, wait > 0 ? wait * 1e9 : 0};
    int ready = epoll_pwait2(e, events, 64, &pause, 0);
    for (int i = 0; i < ready; i++) {
      struct paced *c = &all[events[i].data.u32];
      char bytes[MESSAGE];
      ssize_t k = read(c->fd, bytes, MESSAGE);
      if (k <= 0) die("paced");
      if ((c->got += k) < MESSAGE) continue;
      took[count++] = now() - c->sent;
      c->waits = c->got = 0;
    }
    /* A message that is due while the last one is on its way is skipped: that one's time shows the delay. */
    for (time = now(); all[next].due <= time; next = (next + 1) % clients) {
      struct paced *c = &all[next];
      static const char bytes[MESSAGE];
      c->due += INTERVAL;
      if (c->waits) continue;
      c->sent = now();
      c->waits = 1;
      if (write(c->fd, bytes, MESSAGE) != MESSAGE) die("paced");
    }
  }
  double seconds = now() - since;
  uint64_t bytes = sent - before;
  stopping = 1;
  if (streaming) pthread_join(t, 0);
  for (int i = 0; i < clients; i++)
    if (all[i].waits) took[count++] = now() - all[i].sent;
  printf("\"bytes\":%llu,\"seconds\":%.6f,", (unsigned long long)bytes, seconds);
  tell_trips(took, count);
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc >= 4 && !strcmp(argv[1], "bind")) {
    char pid[20];
    int fd = listener(atoi(argv[2]), 0);
    if (fd != 3) dup2(fd, 3), close(fd);
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", pid, 1);
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[3], argv + 3);
    die(argv[3]);
  }
  uint64_t number = 1;
  int idle = 0, streaming = 0, option;
  if (argc < 2) { fprintf(stderr, "connections: the head of connections.c tells how\n"); return 2; }
  char *mode = argv[1];
  optind = 2;
  while ((option = getopt(argc, argv, "p:t:n:c:i:s")) > 0) {
    if (option == 'p') proxy = atoi(optarg);
    else if (option == 't') target = atoi(optarg);
    else if (option == 'n') number = strtoull(optarg, 0, 10);
    else if (option == 'c') clients = atoi(optarg);
    else if (option == 'i') idle = atoi(optarg);
    else if (option == 's') streaming = 1;
    else return 2;
  }
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  pthread_t t;
  int lfd = listener(target, SOCK_CLOEXEC | SOCK_NONBLOCK);
  pthread_create(&t, 0, be_target, (void *)(intptr_t)lfd);
  int opened = !strcmp(mode, "open") ? (int)number : idle;
  for (int i = 0; i < opened; i++) trip(call(0));
  printf("{");
  if (!strcmp(mode, "open")) {
    char c;
    printf("\"connections\":%d}\n", opened);
    fflush(stdout);
    while (read(0, &c, 1) > 0) {}
    return 0;
  }
  if (!strcmp(mode, "churn")) churn(number);
  else if (!strcmp(mode, "ping")) ping(number);
  else if (!strcmp(mode, "bulk")) bulk(number);
  else if (!strcmp(mode, "paced")) paced(number, streaming);
  else { fprintf(stderr, "connections: %s is no mode\n", mode); return 2; }
  printf("\"failure\":null}\n");
  return 0;
}
