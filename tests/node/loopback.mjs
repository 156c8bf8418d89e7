// Preloaded into npm servers: whatever port they ask for, they listen on loopback, on a port of the system's choice or on
// PORT, and say which as one JSON line, so that tests need no free port beforehand and nothing faces the network.
import net from "node:net";

const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (_port, ...rest) {
  this.once("listening", () => process.stdout.write(JSON.stringify({ port: this.address().port }) + "\n"));
  return listen.call(this, { host: "127.0.0.1", port: Number(process.env.PORT) || 0 }, ...rest);
};
