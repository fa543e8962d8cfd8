'use strict';
const { Server } = require('socket.io');
require('./serve.cjs')(Server);
