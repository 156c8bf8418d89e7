// Preloaded into a server that listens on loopback by itself: it says on which port, as one JSON line. Unlike loopback.mjs
// it changes nothing, so that sockets in the file system, by which such a server may reach its own parts, stay as they are.
import net from "node:net";

const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (...wanted) {
  this.once("listening", () => {
    const address = this.address();
    if (typeof address === "object") process.stdout.write(JSON.stringify({ port: address.port }) + "\n");
  });
  return listen.apply(this, wanted);
};
