import { decompress } from "fzstd";
import { registry } from "zarrita";
import { decodeBlosc } from "./blosc.ts";
import { crc32c } from "./crc32c.ts";

function reading(decode: (data: Uint8Array) => Uint8Array, added = 0) {
  const codec = {
    kind: "bytes_to_bytes",
    decode,
    computeEncodedSize: (size: number) => size + added,
    encode(): never {
      throw new Error("the viewer writes nothing");
    },
  };
  return () => Promise.resolve({ fromConfig: () => codec } as never);
}

const CHECKSUM = 4;

function checked(data: Uint8Array): Uint8Array {
  const body = data.subarray(0, -CHECKSUM);
  const stated = new DataView(data.buffer, data.byteOffset).getUint32(body.length, true);
  if (crc32c(body) !== stated) throw new Error("the checksum of its index is wrong");
  return body.slice();
}

registry.set("blosc", reading(decodeBlosc));
registry.set("zstd", reading((data) => decompress(data).slice())); // zarrita reads texts from the start of the buffer
registry.set("crc32c", reading(checked, CHECKSUM)); // zarrita's own looks at no checksum
