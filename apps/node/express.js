'use strict';
// An Express application.
const express = require('express');
const identity = require('./identity.cjs');

const app = express();
app.get('/*path', (request, response) => response.json(identity(request.url)));
app.get('/', (request, response) => response.json(identity(request.url)));
app.listen(process.env.PORT || 0);
