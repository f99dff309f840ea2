// hubbub's web client, in modules that read bottom-up: `text`, `timeline`, `connection`, `chat`, `elements`, `view`.

import { View } from './view.js';

new View();
