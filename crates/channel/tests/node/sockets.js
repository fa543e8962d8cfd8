// Answers each socket that comes with a message by the message's number.
'use strict';
process.on('message', (message, socket) => {
  if (message && message.id) socket ? socket.end(String(message.id)) : process.send({ lost: message.id });
});
process.send('ready');
