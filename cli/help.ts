/** What `--help` prints. */
export const HELP = `usage: iocopy [options] rfd1 wfd1 [rfd2 wfd2 ...]

Copies data between pairs of inherited descriptors, from each rfd to its wfd.

  v, -v, --verbose      report every operation on standard error
  -b, --buffer=SIZE     the most bytes in flight in each channel: 1 to 64M, with
                        k and M for 1024 and 1048576; 1M where not given
  -h, --help            print this and end
  -V, --version         print the version and end

  iocopy 0 1            is cat
  iocopy v 0 7 6 1      joins a ucspi client, and says what it does

Exit status: 0 all channels ended well, 100 wrong use, 111 the system refused.
`;
