// Prints what a dependency says, so that running the image proves that `npm ci` installed it.
const ms = require("ms");

console.log(`two days are ${ms("2 days")} milliseconds`);
