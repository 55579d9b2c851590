/** What `--help` prints. */
export const HELP = `usage: iocopy [options] rfd1 wfd1 [rfd2 wfd2 ...]
       iocopy [options] listener target [listener target ...]

Copies data between pairs of inherited descriptors, from each rfd to its wfd.
If a descriptor listens, each connection to it is joined with a new one to its
target: HOST:PORT, [IPv6]:PORT, a path with a slash in it, @name, or another
descriptor that listens.

  v, -v, --verbose      report every operation on standard error
  s, -s, --stats        print statistics at the end; --stats=json as JSON
  p, -p, --progress     show the progress: a live line on a terminal, otherwise
                        a line every 10 s
         --size=SIZE    the amount to copy, for a bar and the time left
  x, -x, --dump         show the bytes, as hexdump -C does
  -t, --timeout=SECONDS give up after so long without a byte: 30, 0.5
         --half-closed=SECONDS
                        the same, but only once one direction has ended
  -b, --buffer=SIZE     the most bytes in flight in each channel: 1 to 64M,
                        by default 1M
         --rate=SIZE    the most bytes per second in each channel
  -h, --help            print this text
  -V, --version         print the version

For descriptors that listen (-t and --half-closed apply to each connection):

  -c, --connections=N   the most connections at a time (1000); others wait
         --connect-timeout=SECONDS
                        how long to wait for the target (10)
         --proxy-protocol[=2]
                        tell the target the client's address, by the PROXY
                        protocol, version 1 or 2
         --exit-idle=SECONDS
                        exit after so long without a connection

A SIZE may end in k, M, G or T: units of 1024, 1024 * 1024, ... What is printed
is in units of 1000. Flags without a dash can be combined: vs.

  iocopy 0 1            copies standard input to standard output, as cat does
  iocopy v 0 7 6 1      joins a ucspi client, and reports each operation
  iocopy s 0 1 <a >b    says at the end how much was copied, and how fast
  iocopy p 0 1 <a >b    shows a bar and the time left
  iocopy x 0 7 6 1      shows what both sides send
  iocopy -t 30 0 7 6 1  gives up when nothing was sent for half a minute

  iocopy 3 127.0.0.1:22 forwards each connection to descriptor 3 to that port

SIGTERM delivers what was read, then exits. SIGUSR1 and SIGUSR2 print statistics
(only SIGUSR2 when run from source). With a descriptor that listens, SIGHUP
accepts no more, and exits after the last connection.

Exit status: 0 no error, 100 wrong use, 111 the system refused something or the
time was up, 128 + n signal n ended it.
`;
