"""The console: pages for the EC's staff, in Italian. A process of its own, never part of the push server.

`app` puts it together: each area is a blueprint in `pages`. Who a user is stands in `identity`, what they may see in
`scope`, which gives the only way to the database. Who looked up whom is written down by `access`.
"""
