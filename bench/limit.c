/* limit: what the kernel allows.  It does the same job as iocopy and only moves
 * bytes: no checks, no reports, no errors, no restored flags.  It is a poll(2) loop
 * with splice(2), directly if one side is a pipe, otherwise through a pipe of its
 * own.  All pipes are enlarged to 1 MiB, unless -k.  The benchmark compares iocopy with it.
 *
 *   cc -O2 -o limit limit.c && ./limit [-k] [-p] rfd1 wfd1 rfd2 wfd2 ...
 *
 * -k  keeps the pipes that it is given as they are
 * -p  through a pipe of its own unless both sides are pipes
 *
 * Either can be faster.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE (1 << 20)
struct channel { int r, w, direct, p[2], held, ended; };

static int kind(int fd, int format) {
  struct stat s;
  return fstat(fd, &s) == 0 && (s.st_mode & S_IFMT) == format;
}

static void finish(struct channel *c) {
  shutdown(c->w, SHUT_WR);
  close(c->w);
  c->ended = 1;
}

int main(int argc, char **argv) {
  int keep = argc > 1 && !strcmp(argv[1], "-k");
  argc -= keep, argv += keep;
  int through = argc > 1 && !strcmp(argv[1], "-p");
  argc -= through, argv += through;
  int n = (argc - 1) / 2, left = n;
  struct channel *c = calloc(n, sizeof *c);
  struct pollfd *f = calloc(n, sizeof *f);
  for (int i = 0; i < n; i++) {
    c[i].r = atoi(argv[1 + 2 * i]);
    c[i].w = atoi(argv[2 + 2 * i]);
    int pipes = kind(c[i].r, S_IFIFO) + kind(c[i].w, S_IFIFO);
    c[i].direct = pipes == 2 || (pipes == 1 && !through);
    if (!keep && kind(c[i].r, S_IFIFO)) fcntl(c[i].r, F_SETPIPE_SZ, PIECE);
    if (!keep && kind(c[i].w, S_IFIFO)) fcntl(c[i].w, F_SETPIPE_SZ, PIECE);
    if (!c[i].direct) { pipe2(c[i].p, O_NONBLOCK); fcntl(c[i].p[1], F_SETPIPE_SZ, PIECE); }
    if (kind(c[i].r, S_IFSOCK)) fcntl(c[i].r, F_SETFL, fcntl(c[i].r, F_GETFL) | O_NONBLOCK);
    if (kind(c[i].w, S_IFSOCK)) fcntl(c[i].w, F_SETFL, fcntl(c[i].w, F_GETFL) | O_NONBLOCK);
    f[i] = (struct pollfd){c[i].r, POLLIN, 0};
  }
  while (left) {
    poll(f, n, -1);
    for (int i = 0; i < n; i++) {
      if (c[i].ended || !f[i].revents) continue;
      if (c[i].direct) {
        ssize_t k = splice(c[i].r, 0, c[i].w, 0, PIECE, SPLICE_F_NONBLOCK);
        if (k == 0) { finish(&c[i]); f[i].fd = -1; left--; }
        else if (k < 0) f[i] = f[i].events == POLLIN ? (struct pollfd){c[i].w, POLLOUT, 0} : (struct pollfd){c[i].r, POLLIN, 0};
        continue;
      }
      if (!c[i].held) {
        ssize_t k = splice(c[i].r, 0, c[i].p[1], 0, PIECE, SPLICE_F_NONBLOCK);
        if (k == 0) { finish(&c[i]); f[i].fd = -1; left--; }
        if (k <= 0) continue;
        c[i].held = k;
      }
      ssize_t k = splice(c[i].p[0], 0, c[i].w, 0, c[i].held, SPLICE_F_NONBLOCK);
      if (k > 0) c[i].held -= k;
      f[i] = c[i].held ? (struct pollfd){c[i].w, POLLOUT, 0} : (struct pollfd){c[i].r, POLLIN, 0};
    }
  }
  return 0;
}
