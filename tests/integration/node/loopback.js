// Preloaded into a server that offers no setting for its address: whatever it listens on, it listens on loopback only.
"use strict";
const net = require("node:net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...wanted) {
  if (wanted[0] !== null && typeof wanted[0] === "object") {
    wanted[0] = { ...wanted[0], host: "127.0.0.1" };
  } else if (typeof wanted[0] === "number") {
    wanted = [wanted[0], "127.0.0.1", ...wanted.slice(1).filter((one) => typeof one !== "string")];
  }
  return listen.apply(this, wanted);
};
