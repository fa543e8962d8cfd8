/* ./cluster.js */
const cluster = require('cluster');
const http = require('http');
const processNum = 4;  //开启4核集群

if (cluster.isMaster) {
    // Fork workers.
    for (let i = 0; i < processNum; i++) {
        cluster.fork();
    }

    cluster.on('exit', (worker, code, signal) => {
        console.log(`worker ${worker.process.pid} died`);
    });
} else {
    //setup weroll application
    require("./main.js");
    console.log(`Worker ${process.pid} started`);
}
