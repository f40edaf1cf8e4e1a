const SHORTEST_MATCH = 4;
const MORE = 15;

/**
 * Decodes a block of LZ4 of a known length.
 *
 * Source: lz4_Block_format.md of lz4.
 */
export function decodeLz4(source: Uint8Array, length: number): Uint8Array {
  const decoded = new Uint8Array(length);
  let from = 0;
  let to = 0;

  const next = () => {
    const byte = source[from++];
    if (byte === undefined) throw new Error("a block of LZ4 is cut short");
    return byte;
  };
  const counted = (start: number) => {
    let count = start;
    if (start === MORE) {
      let more;
      do count += more = next();
      while (more === 255);
    }
    return count;
  };

  while (from < source.length) {
    const token = next();
    const literals = counted(token >> 4);
    if (from + literals > source.length || to + literals > length) throw new Error("a block of LZ4 is damaged");
    decoded.set(source.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from === source.length) break; // the last sequence has no match
    const back = next() | (next() << 8);
    const end = to + counted(token & MORE) + SHORTEST_MATCH;
    if (back === 0 || back > to || end > length) throw new Error("a block of LZ4 is damaged");
    for (; to < end; to++) decoded[to] = decoded[to - back]!; // byte by byte: a match may reach into itself
  }
  return decoded.subarray(0, to);
}
