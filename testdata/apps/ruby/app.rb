# Answers one request to itself, so that running the image proves that it works.
require 'sinatra/base'
require 'rack/mock'

class App < Sinatra::Base
  set :host_authorization, permitted_hosts: [] if respond_to?(:host_authorization)
  get('/') { "sinatra says hello\n" }
end

print Rack::MockRequest.new(App.new).get('/').body if $PROGRAM_NAME == __FILE__
