// Loads the package when it is needed first.
const { default: serve } = await import('./serve.cjs');
serve((await import('socket.io')).Server);
