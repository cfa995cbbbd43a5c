-- Run once by PostgreSQL's image, when its volume is new: a role that owns the tables and one that runs the station.
\set owner `cat /run/secrets/station_owner`
\set app `cat /run/secrets/station_app`
CREATE ROLE station_owner LOGIN PASSWORD :'owner';
CREATE ROLE station_app LOGIN PASSWORD :'app';
CREATE DATABASE station OWNER station_owner ENCODING 'UTF8' TEMPLATE template0;
