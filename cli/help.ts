/** What `--help` prints. */
export const HELP = `usage: iocopy [options] rfd1 wfd1 [rfd2 wfd2 ...]
       iocopy [options] listener target [listener target ...]

Copies data between pairs of inherited descriptors, from each rfd to its wfd.
A descriptor that listens has a target: HOST:PORT, [IPv6]:PORT, a path with a
slash, @name, or another one that listens. Each connection that comes to it is
joined with one of its own to the target.

  v, -v, --verbose      report every operation on standard error
  s, -s, --stats        print statistics at the end; --stats=json as JSON
  p, -p, --progress     show the progress: a live line on a terminal, elsewhere
                        a line every 10 s
         --size=SIZE    how much there is to copy, for a bar and the time left
  x, -x, --dump         show the bytes themselves, as hexdump -C does
  -t, --timeout=SECONDS give up when nothing has moved for so long: 30, 0.5
  -b, --buffer=SIZE     the most bytes in flight in each channel: 1 to 64M;
                        1M where not given
         --rate=SIZE    the most bytes a second in each channel
         --half-closed=SECONDS
                        give up when one direction has ended and nothing has
                        moved in the other for so long
  -h, --help            print this and end
  -V, --version         print the version and end

For connections that are served; -t and --half-closed are for each by itself:

  -c, --connections=N   the most at one time (1000); others wait
         --connect-timeout=SECONDS
                        how long to wait for the target (10)
         --proxy-protocol[=2]
                        tell the target who the client is (PROXY protocol)
         --exit-idle=SECONDS
                        end when there was no connection for so long

A SIZE may end in k, M, G or T, for 1024 and so on. Flags without a dash may
stand together: vs.

  iocopy 0 1            is cat
  iocopy v 0 7 6 1      joins a ucspi client, and says what it does
  iocopy s 0 1 <a >b    says at the end how much it was, and how fast
  iocopy p 0 1 <a >b    shows how far it is
  iocopy x 0 7 6 1      shows what the two sides say to each other
  iocopy -t 30 0 7 6 1  ends a connection that is silent for half a minute

  iocopy 3 127.0.0.1:22 joins each connection that comes to 3 with that port

SIGHUP ends a service with its last connection.
SIGUSR1 and SIGUSR2 print the statistics at any time (run from source: SIGUSR2).

Exit status: 0 all channels ended well, 100 wrong use, 111 the system refused,
128 + n signal n ended it.
`;
