/**
 * The bytes that are copied, in hexadecimal and ASCII.
 *
 * @module
 */
import type { ChannelStatus, CopyOptions } from "../engine.ts";
import type { Log } from "./log.ts";

/** The most bytes in one block. */
const BLOCK = 16 * 1024;

/** Bytes in one row. */
const ROW = 16;

/**
 * Options for a copy that writes its bytes to `log`: one block for each read,
 * below a line with the time and the channel. Copying goes no faster than the
 * log's reader, as long as that reads at all.
 */
export function dumping(log: Log): CopyOptions {
  const offsets = new WeakMap<ChannelStatus, number>();
  return {
    onWait: () => log.settle(),
    onData: (channel, bytes) => {
      const time = new Date().toISOString();
      for (let at = 0; at < bytes.length; at += BLOCK) {
        const block = bytes.subarray(at, at + BLOCK);
        const offset = offsets.get(channel) ?? 0;
        offsets.set(channel, offset + block.length);
        const head = `iocopy: ${time} ${channel.rfd} -> ${channel.wfd}: ${block.length} bytes\n`;
        log.block(head + hexdump(block, offset));
      }
    },
  };
}

/** What `hexdump -C` prints of `bytes` that begin at `offset` of a file. */
export function hexdump(bytes: Uint8Array, offset = 0): string {
  let text = "";
  let before = "", squeezed = false;
  for (let at = 0; at < bytes.length; at += ROW) {
    const end = Math.min(at + ROW, bytes.length);
    const row = toRow(bytes, at, end);
    // Rows that repeat the row above become one asterisk; a shorter last row never does.
    const repeats = row === before && end - at === ROW;
    if (!repeats) text += `${address(offset + at)}  ${row}\n`;
    else if (!squeezed) text += "*\n";
    before = row;
    squeezed = repeats;
  }
  return text && text + address(offset + bytes.length) + "\n";
}

function toRow(bytes: Uint8Array, from: number, to: number): string {
  let hex = "", ascii = "";
  for (let at = from; at < to; at++) {
    const byte = bytes[at] ?? 0;
    hex += HEX[byte];
    if (at - from === ROW / 2 - 1) hex += " ";
    ascii += ASCII[byte];
  }
  return `${hex.padEnd(3 * ROW + 1)} |${ascii}|`;
}

function address(offset: number): string {
  return offset.toString(16).padStart(8, "0");
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0") + " ");
const ASCII = Array.from(
  { length: 256 },
  (_, byte) => byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".",
);
