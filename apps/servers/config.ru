# frozen_string_literal: true

run(lambda do |environment|
  sleep environment['QUERY_STRING'][/ms=(\d+)/, 1].to_i / 1000.0
  [200, { 'Content-Type' => 'text/plain' }, [Process.pid.to_s]]
end)
