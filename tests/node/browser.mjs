// Unpacks the Chromium that the package @sparticuz/chromium carries, with the libraries it needs where a machine lacks
// them, into node_modules/.browser. The package itself would unpack to a fixed place in the machine's temporary folder.
import { createReadStream, createWriteStream, mkdirSync, rmSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import tar from "tar-fs";

const packed = new URL("node_modules/@sparticuz/chromium/bin/", import.meta.url);
const unpacked = new URL("node_modules/.browser/", import.meta.url);

function unpack(name, target) {
  return pipeline(createReadStream(new URL(name, packed)), createBrotliDecompress(), target);
}

rmSync(unpacked, { recursive: true, force: true });
mkdirSync(unpacked);
await Promise.all([
  unpack("chromium.br", createWriteStream(new URL("chromium", unpacked), { mode: 0o755 })),
  unpack("al2023.tar.br", tar.extract(new URL("libraries", unpacked).pathname)),
]);
