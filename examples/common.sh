# shellcheck shell=sh
# What the scripts beside this file share; they source it, so keep them in one folder.
set -u

name=${0##*/}
# shellcheck disable=SC2034 # the scripts use it
iocopy=${IOCOPY:-iocopy}

# Every script calls tcpserver and tcpclient with -H, -R and -l0: they look up no
# names and no users then, which can take half a minute behind a firewall.

# Checks the command line: --help prints the usage; a number of arguments that is
# not among COUNTS is wrong use.
arguments() { # "COUNTS" ARGUMENTS...
  counts=$1
  shift
  case ${1-} in
    -h | --help) usage; exit 0 ;;
  esac
  case " $counts " in
    *" $# "*) ;;
    *) usage >&2; exit 100 ;;
  esac
}

# Exits if one of the programs is missing.
needs() { # PROGRAMS...
  for program; do
    [ -x "$(command -v "$program")" ] && continue
    case $program in
      tcpserver | tcpclient) advice='install ucspi-tcp' ;;
      pkill) advice='install procps' ;;
      *) advice='put it on PATH, or set the variable IOCOPY to its path' ;;
    esac
    echo "$name: $program not found: $advice" >&2
    exit 111
  done
}
