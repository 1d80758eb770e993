// setImmediate for a page: the next turn of the event loop, without the delay of timers. The bundler puts it where the
// code of all platforms asks for one (build/web.mjs), so that nothing else has to know.

interface Turn {
  callback: (() => void) | null;
}

const channel = new MessageChannel();
const turns: Turn[] = [];

channel.port1.onmessage = () => {
  const turn = turns.shift();
  const callback = turn?.callback;
  if (turn) turn.callback = null;
  callback?.();
};

function set(callback: () => void): Turn {
  const turn = { callback };
  turns.push(turn);
  channel.port2.postMessage(null);
  return turn;
}

function clear(turn: Turn | undefined): void {
  if (turn) turn.callback = null;
}

export { set as setImmediate, clear as clearImmediate };
