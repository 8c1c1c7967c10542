// An AMP agent on the library `ws` at its defaults that reads so many bytes a second.
//
// Usage: slow_receiver.js URL HELLO-HEX BYTES-A-SECOND MESSAGES
//
// Ends with 0 when all messages have come and the connection was closed by it and by nobody before.
'use strict';

const WebSocket = require('ws');

const [url, hello, rate, count] = process.argv.slice(2);
const socket = new WebSocket(url, ['amp.v1']);
let seen = -1; // HELLO_ACK comes first
let due = 0;

socket.on('open', () => socket.send(Buffer.from(hello, 'hex')));
socket.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
socket.on('message', (frame) => {
  seen += 1;
  if (seen === 0) {
    console.log('ready');
    due = performance.now();
    return;
  }
  // The number of a message stands behind the key `n`, as an integer of 32 bits that begin with these.
  const at = frame.indexOf(Buffer.from([0x61, 0x6e, 0x1a, 0x00, 0x01]));
  const number = frame.readUInt16BE(at + 5);
  if (number !== seen - 1) {
    console.error(`${number} came for ${seen - 1}`);
    process.exit(1);
  }
  if (seen === Number(count)) {
    socket.close(1000);
    return;
  }
  due += (frame.length / Number(rate)) * 1000;
  // What the library has read already still comes.
  if (!socket.isPaused && due > performance.now() + 1) {
    socket.pause();
    resumeWhenDue();
  }
});

function resumeWhenDue() {
  const wait = due - performance.now();
  if (wait > 1) setTimeout(resumeWhenDue, wait);
  else socket.resume();
}

socket.on('close', (code) => {
  console.log(`closed ${code} after ${seen}`);
  process.exit(code === 1000 && seen === Number(count) ? 0 : 1);
});
