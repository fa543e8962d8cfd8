'use strict';
// The article's master serves an API of its own; here it has nothing to do.
module.exports = class MasterNode {
  async start() {}
};
