<?php
usleep(1000 * (int) ($_GET['ms'] ?? 0));
header('Content-Length: ' . strlen(getmypid()));
echo getmypid();
