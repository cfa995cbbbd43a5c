<?php // Receive the station's webhooks: WEBHOOK_SECRET=whsec_... php -S 127.0.0.1:8090 receiver.php
http_response_code(500); // what stands if an error ends this script: the station sends again

$key = base64_decode(substr(getenv('WEBHOOK_SECRET'), strlen('whsec_')));
$body = file_get_contents('php://input');
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$at = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
$given = explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '');
$ours = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", $key, true));
$fresh = preg_match('/^[0-9]+$/', $at) && abs(time() - (int) $at) < 300;
$genuine = $fresh && array_filter($given, fn ($one) => hash_equals($ours, $one));
if ($genuine) {
    $event = json_decode($body, true);
    // Here: store $event['data'] under $event['id'], unless it is there, and answer only then.
    file_put_contents('php://stdout', "{$event['type']} {$event['id']} " . ($event['subject'] ?? '') . "\n");
}
http_response_code($genuine ? 204 : 401);
