# frozen_string_literal: true

require 'webrick'

server = WEBrick::HTTPServer.new(BindAddress: '127.0.0.1', Port: ENV.fetch('PORT').to_i, AccessLog: [])
server.mount_proc('/') do |request, response|
  sleep request.query.fetch('ms', 0).to_i / 1000.0
  response.body = Process.pid.to_s
end
trap('TERM') { server.shutdown }
server.start
