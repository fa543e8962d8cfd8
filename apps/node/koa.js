'use strict';
// A Koa application.
const Koa = require('koa');
const identity = require('./identity.cjs');

const app = new Koa();
app.use((context) => {
  context.body = identity(context.url);
});
app.listen(process.env.PORT || 0);
