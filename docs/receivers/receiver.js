// Receive the station's webhooks: WEBHOOK_SECRET=whsec_... node receiver.js 8090. Needs nothing but Node.
const { createHmac, timingSafeEqual } = require('node:crypto')
const { createServer } = require('node:http')

const equal = (one, other) => one.length === other.length && timingSafeEqual(one, other)

function isGenuine(headers, body) {
  const key = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ''), 'base64')
  const { 'webhook-id': id = '', 'webhook-timestamp': at = '', 'webhook-signature': given = '' } = headers
  const ours = Buffer.from('v1,' + createHmac('sha256', key).update(`${id}.${at}.`).update(body).digest('base64'))
  const fresh = /^[0-9]+$/.test(at) && Math.abs(Date.now() / 1000 - Number(at)) < 300
  return fresh && given.split(' ').some((one) => equal(ours, Buffer.from(one)))
}

createServer(async (request, response) => {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  const body = Buffer.concat(chunks)
  const genuine = isGenuine(request.headers, body)
  if (genuine) {
    const event = JSON.parse(body)
    // Here: store event.data under event.id, unless it is there, and answer only then.
    console.log(event.type, event.id, event.subject ?? '')
  }
  response.writeHead(genuine ? 204 : 401).end()
}).listen(Number(process.argv[2]), '127.0.0.1')
