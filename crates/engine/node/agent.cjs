'use strict';
// The part of worksong that runs inside a Node worker. It gives idle HTTP connections back to the primary, so that they
// go on in another worker, ends politely what cannot move, answers pings, and counts when it is asked to.
// docs/protocol.md has its messages. With a sticky policy it lets the sessions of Socket.IO name the slot that they belong to.
//
// It is preloaded (NODE_OPTIONS) and must not be noticed: it costs nothing per request or connection as long as nobody
// asks it to count, keeps no process alive, throws nothing, and takes its own option out of the environment of whatever the program starts.
//
// Tested with Node 18, 20, 22 and 24. Where Node's insides are not as expected it says that it can do less.

forgetOption();
// Threads of the program load this file, too; they have no channel.
if (typeof process.send === 'function' && process.env.WORKSONG_APP !== undefined) {
  const cluster = require('node:cluster');
  if (cluster.isWorker && typeof cluster._getServer === 'function') start(cluster);
}

/** Removes the options by which this file was loaded from what children of the program inherit. */
function forgetOption() {
  const file = JSON.stringify(__filename);
  const options = process.env.NODE_OPTIONS;
  const option = [` --allow-fs-read=${file} --require ${file}`, ` --require ${file}`]
    .find((option) => options?.endsWith(option));
  if (option === undefined) return;
  const before = options.slice(0, -option.length);
  if (before === '') delete process.env.NODE_OPTIONS;
  else process.env.NODE_OPTIONS = before;
}

/** Lets the ids of sessions that engine.io makes end in the name of this worker's slot, by which the primary knows it. */
function nameSlotInSessions() {
  const suffix = `.slot${process.env.WORKSONG_SLOT}`;
  const naming = new WeakSet();
  const nameSlot = (id) => typeof id === 'string' && !/\.slot\d+$/.test(id) ? id + suffix : id;

  /** The program may have a generator of its own, as engine.io offers. */
  function generator(generateId) {
    const named = function (...args) {
      const id = Reflect.apply(generateId, this, args);
      return typeof id?.then === 'function' ? id.then(nameSlot) : nameSlot(id);
    };
    naming.add(named);
    return named;
  }

  function followEngine(exported) {
    for (const Server of [exported, exported?.Server, exported?.BaseServer]) {
      const handshake = Server?.prototype && Object.hasOwn(Server.prototype, 'handshake') && Server.prototype.handshake;
      if (typeof handshake !== 'function') continue;
      Server.prototype.handshake = function (...args) {
        // @socket.io/cluster-engine finds sessions at any worker, and takes no other ids than engine.io's own.
        const findsSessions = typeof this.publishMessage === 'function';
        if (!findsSessions && !naming.has(this.generateId)) this.generateId = generator(this.generateId);
        return Reflect.apply(handshake, this, args);
      };
    }
  }

  const extensions = require('node:module')._extensions;
  const load = extensions['.js'];
  extensions['.js'] = function (module, filename, ...rest) {
    Reflect.apply(load, this, [module, filename, ...rest]);
    if (/[/\\]engine\.io[/\\](build|lib)[/\\]server\.js$/.test(filename)) followEngine(module.exports);
  };
}

function start(cluster) {
  if (process.env.WORKSONG_STICKY !== undefined) nameSlotInSessions();
  const sendToPrimary = process.send;
  /** The servers that listen through the primary. */
  const servers = new Set();
  /** The open sessions of HTTP/2 servers. */
  const sessions = new WeakMap();
  /** Connections that were idle at the last look at all of them, with how much had been read from each. */
  let candidates = [];
  let waiting = null;
  let reporting = null;
  /** How many open connections were last reported. */
  let told = null;
  /** How long there is between two reports of a worker that stays, in milliseconds; 0 while none are wanted. */
  let countEvery = 0;
  /** The report that the last change has set off, and when the one before it was sent. */
  let counting = null;
  let countedAt = 0;
  /** Servers that tell of each change. */
  const counted = new WeakSet();
  /** The program knows that this worker leaves. */
  let isTold = false;
  /** Connections that have sent nothing here may still move, or what they have sent is not read yet. */
  let keepsUnused = true;
  /** Until that is over. */
  let lastUnused = null;
  /** How many times as long as a look at all connections took there is until the next one. */
  let rest = 50;

  // Every net.Server that asks the primary for a place to listen passes here, once for each listen().
  const getServer = cluster._getServer;
  cluster._getServer = function (server, query, listen) {
    if (!servers.has(server)) follow(server);
    const listenAndFollow = (error, handle) => {
      if (handle) followHandle(server, handle);
      return listen(error, handle);
    };
    return Reflect.apply(getServer, this, [server, query, listenAndFollow]);
  };

  /** Notices that the program closes its server by itself. */
  function followHandle(server, handle) {
    const { close } = handle;
    handle.close = function (...args) {
      // The loop reads once more in any case, however late it is: a connection with unread bytes would be reset.
      setTimeout(() => setImmediate(onClosed, server), 1000).unref();
      return Reflect.apply(close, this, args);
    };
  }

  /** Closes what the primary has not asked for since then: Node closes only idle connections that have had a request here. */
  function onClosed(server) {
    // It may listen anew.
    if (reporting === null && !server.listening && isPlainHttp(server)) closeUnused(connectionsOf(server));
  }

  /** A server that could not listen may try again without being closed. */
  function follow(server) {
    servers.add(server);
    if (countEvery > 0) tellChanges(server);
    server.once('close', () => {
      servers.delete(server);
      // After the last one Node closes the channel at once, or says that the worker leaves by itself.
      if (reporting !== null || cluster.worker.exitedAfterDisconnect) report();
    });
    if (isHttp2(server) && !sessions.has(server)) {
      sessions.set(server, new Set());
      server.on('session', (session) => followSession(server, session));
    }
  }

  function say(message, socket, done) {
    // With a callback a channel that is closed meanwhile is no 'error' event of the program.
    Reflect.apply(sendToPrimary, process, [{ cmd: 'NODE_WORKSONG', ...message }, socket, done ?? (() => {})]);
  }

  /** An HTTP/2 server; loading its module to ask would cost every program that has none. */
  function isHttp2(server) {
    return /^Http2(Secure)?Server$/.test(server.constructor.name);
  }

  function followSession(server, session) {
    sessions.get(server).add(session);
    session.once('close', () => sessions.get(server).delete(session));
  }

  /** Node's own list of a server's connections that speak HTTP/1; upgraded ones have left it. */
  function connectionsOf(server) {
    const symbol = Object.getOwnPropertySymbols(server)
      .find(({ description }) => description === 'http.server.connections');
    return symbol === undefined ? undefined : server[symbol];
  }

  /** Only connections of these can move. The module is loaded when a worker leaves, not at every start. */
  function isPlainHttp(server) {
    return server instanceof require('node:http').Server;
  }

  /** The lists of the connections that can move, and of those beside them. */
  function movable() {
    return [...servers].filter(isPlainHttp).map(connectionsOf).filter(Boolean);
  }

  /**
   * A socket of the system, which came through the primary. A program may let its HTTP server speak over others, such as TLS, which Node cannot send:
   * it would crash.
   */
  function canMove(socket) {
    return servers.has(socket?.server) && /^(TCP|Pipe)$/.test(socket._handle?.constructor.name);
  }

  function listIdle() {
    candidates = [];
    for (const connections of movable()) {
      // The parser has seen the end of a request, and no byte of another.
      const between = new Set(connections.idle());
      for (const parser of connections.all()) {
        const { socket } = parser;
        if (canMove(socket) && (socket.bytesRead === 0 || between.has(parser))) {
          candidates.push({ socket, bytesRead: socket.bytesRead });
        }
      }
    }
  }

  /** No byte was read since it was idle, no response is on its way, and neither side has ended. */
  function isIdle({ socket, bytesRead }) {
    const handle = socket._handle;
    return handle && socket.bytesRead === bytesRead && !socket._httpMessage &&
      socket.readableLength === 0 && socket.writableLength === 0 && handle.writeQueueSize === 0 &&
      !socket.destroyed && !socket.readableEnded && !socket.writableEnded;
  }

  function nextIdle() {
    if (candidates.length === 0) listIdle();
    for (let candidate; (candidate = candidates.pop()) !== undefined;) {
      if (isIdle(candidate)) return candidate.socket;
    }
    return undefined;
  }

  /** Answers a request for a connection; returns false when the answer has to wait for one. */
  function give(wait) {
    // Behind a handle of the program's, Node would queue the socket as it is now, and send it with its server's key.
    if (process._handleQueue) return false;
    const socket = nextIdle();
    if (socket !== undefined) {
      // What arrives from here on is for the next worker: libuv would go on reading, and drop it, until the primary
      // has taken the descriptor.
      socket._handle.readStop();
      // Node would ask the primary about sockets of a server whose connections were sent, and take none of its own for
      // open when it says that they are closed.
      const { server } = socket;
      socket.server = undefined;
      // For the program it is closed.
      say({ act: 'given' }, socket, () => socket.destroy());
      socket.server = server;
      return true;
    }
    if (wait && movable().some((connections) => connections.all().some(({ socket }) => canMove(socket)))) return false;
    say({ act: 'none', open: countOpen() });
    return true;
  }

  function onGive(wait) {
    waiting = null;
    // What is given to nobody would be closed.
    if (!process.connected) return;
    const before = usedTime();
    if (give(wait)) return;
    // It may take the program a fiftieth of its time, however many connections there are to look at, or a fifth when there
    // is little left; but what is idle between two requests has to be seen.
    const pause = Math.min(Math.max(5, rest * (usedTime() - before)), 250);
    waiting = setTimeout(onGive, pause, wait).unref();
  }

  /** Processor time in milliseconds. On a busy machine the time on the wall is mostly that of others. */
  function usedTime() {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  }

  /** Answers a request that waits: there will be nothing to give. */
  function stopWaiting() {
    if (waiting === null) return;
    clearTimeout(waiting);
    waiting = null;
    say({ act: 'none', open: countOpen() });
  }

  function countOpen() {
    let count = 0;
    // UDP sockets are asked for like servers, and have none.
    for (const server of servers) count += server._connections ?? 0;
    return count;
  }

  function report() {
    if (!keepsUnused) movable().forEach(closeUnused);
    const count = countOpen();
    if (count !== told) say({ act: 'open', count });
    told = count;
  }

  /** Reports how many connections are open, now and whenever that has changed. */
  function onCount(every) {
    countEvery = every > 0 ? every : 0;
    clearTimeout(counting);
    counting = null;
    if (countEvery === 0) return;
    for (const server of servers) tellChanges(server);
    reportCount();
  }

  /** Node counts a server's connections in a plain property, up and down; here it notices, too. */
  function tellChanges(server) {
    let count = server._connections;
    // UDP sockets are asked for like servers, and have none.
    if (typeof count !== 'number' || counted.has(server)) return;
    counted.add(server);
    Object.defineProperty(server, '_connections', {
      configurable: true,
      enumerable: true,
      get: () => count,
      set: (now) => { count = now; onChange(); },
    });
  }

  /** What opened and closed since the last report is news, too: the primary has added it. */
  function onChange() {
    if (counting !== null || countEvery === 0 || reporting !== null) return;
    const pause = Math.max(0, countedAt + countEvery - performance.now());
    counting = setTimeout(reportCount, pause).unref();
  }

  function reportCount() {
    counting = null;
    countedAt = performance.now();
    say({ act: 'open', count: countOpen() });
  }

  function onDrain(moves) {
    if (moves) {
      clearTimeout(lastUnused);
      lastUnused = null;
      keepsUnused = true;
    } else {
      // As when the program closes a server, the loop reads once more.
      lastUnused ??= setTimeout(() => setImmediate(() => { keepsUnused = false; }), 250).unref();
    }
    tellProgram();
    for (const server of servers) {
      // GOAWAY: open streams are finished. One that the client opens just now is refused, which by RFC 9113 §8.7 says that
      // it may be sent again. The two-step GOAWAY of §6.8 would spare that, but Node's own client hangs on it.
      for (const session of sessions.get(server) ?? []) session.close();
      if (connectionsOf(server) === undefined) continue;
      // close() would close what is idle, with a request on its way perhaps. What does not move may stay until its next
      // answer, or its keep-alive time.
      if (moves) server.closeIdleConnections = () => {};
      else closeIdleAgain(server);
      if (!moves || !isPlainHttp(server)) closeAfterAnswers(server);
    }
    if (!moves) stopWaiting();
    if (reporting !== null) return;
    told = null;
    report();
    reporting = setInterval(report, 50).unref();
  }

  /** What has not been idle until now may never be: it ends with its next answer. */
  function onHurry() {
    rest = 5;
    for (const server of servers) {
      if (isPlainHttp(server) && connectionsOf(server) !== undefined) closeAfterAnswers(server);
    }
  }

  /** Lets the program end what only it can end, such as WebSockets. An error of its listener is its own affair. */
  function tellProgram() {
    if (isTold) return;
    isTold = true;
    setImmediate(() => process.emit('worksong:drain'));
  }

  /**
   * Closes connections without a request. Node would wait for one for ever, also on those that came from another worker
   * and have had requests there.
   */
  function closeUnused(connections) {
    for (const { socket } of connections?.all() ?? []) {
      if (socket?.bytesRead === 0) socket.destroy();
    }
  }

  /** Nobody takes connections any more: what was kept for that ends as it would have. */
  function closeIdleAgain(server) {
    if (!Object.hasOwn(server, 'closeIdleConnections')) return;
    delete server.closeIdleConnections;
    if (!server.listening) server.closeIdleConnections?.();
  }

  /** Lets every connection of an HTTP server end with the answer that it gets next. */
  function closeAfterAnswers(server) {
    const close = (response) => { if (!response.headersSent) response.shouldKeepAlive = false; };
    server.prependListener('request', (request, response) => close(response));
    for (const { socket } of connectionsOf(server).all()) {
      if (socket?._httpMessage) close(socket._httpMessage);
    }
  }

  function hear(message) {
    switch (message.act) {
      case 'give': onGive(message.wait === true); break;
      case 'drain': onDrain(message.move === true); break;
      case 'hurry': onHurry(); break;
      case 'count': onCount(message.every); break;
      case 'ping': say({ act: 'pong', ack: message.seq, open: countOpen() }); break;
    }
  }

  process.on('internalMessage', (message) => {
    if (message?.cmd !== 'NODE_WORKSONG') return;
    try {
      hear(message);
    } catch {
      // Node's insides are not as expected: nothing moves.
      if (message.act === 'give') say({ act: 'none', open: 0 });
    }
  });
  say({ act: 'hello', can: ['give', 'ping', 'drain', 'count'] });
}
