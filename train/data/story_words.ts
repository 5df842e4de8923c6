/** The words that the stories of `corpus.ts` are filled with. Lists are short on purpose: a small model meets each often. */

export const girlNames =
  "Mia Lily Anna Zoe Ella Ruby Nora Ivy Sara Molly Emma Rosie Clara Daisy Lucy Maya".split(" ");
export const boyNames = "Tom Ben Max Leo Sam Jack Finn Oscar Noah Tim Eli Hugo Theo Adam Owen Luke".split(
  " ",
);
export const animalNames =
  "Pip Coco Dot Momo Nibbles Bruno Tilly Fuzzy Hazel Biscuit Pepper Waffles Bubbles Sunny Poppy Button".split(
    " ",
  );

export const animals =
  "rabbit fox bear mouse duck frog cat dog squirrel hedgehog turtle owl pig goat penguin otter".split(" ");
export const childSizes = ["little", "young", "small"];
export const animalSizes = ["little", "small", "young", "tiny"];
export const traits = "kind shy brave curious clever gentle cheerful busy quiet friendly".split(" ");
export const hobbies = [
  "sing songs",
  "draw pictures",
  "look at the clouds",
  "run and jump",
  "read books",
  "count the stars",
  "dance in the kitchen",
  "collect round stones",
  "play outside",
  "tell funny jokes",
];

/** Who looks after the hero: the word, and the pronouns that go with it. */
export const grownUps: readonly (readonly [string, "she" | "he"])[] = [
  ["mom", "she"],
  ["dad", "he"],
  ["grandma", "she"],
  ["grandpa", "he"],
];

/** A place as a noun, as where one is, and as where one goes. */
export const places: readonly (readonly [string, string, string])[] = [
  ["the park", "in the park", "to the park"],
  ["the beach", "at the beach", "to the beach"],
  ["the forest", "in the forest", "into the forest"],
  ["the garden", "in the garden", "to the garden"],
  ["the pond", "by the pond", "to the pond"],
  ["the hill", "on the hill", "up the hill"],
  ["the meadow", "in the meadow", "to the meadow"],
  ["the river", "by the river", "down to the river"],
  ["the playground", "at the playground", "to the playground"],
  ["the farm", "at the farm", "to the farm"],
  ["the lake", "by the lake", "to the lake"],
];

export const weathers = "sunny windy warm bright cloudy cool lovely fine".split(" ");
export const colors = "red blue green yellow orange purple white pink".split(" ");
export const toys =
  "ball|kite|boat|truck|train|doll|teddy bear|drum|robot|puzzle|spinning top|balloon|wagon|toy car".split(
    "|",
  );
export const spots = [
  "under the bed",
  "behind the sofa",
  "in the toy box",
  "under the table",
  "behind the door",
  "in the closet",
  "under the blanket",
  "behind the curtain",
  "in the laundry basket",
  "under the stairs",
  "behind the bookshelf",
];

/** A thing to eat: one of it, and several. */
export const snacks: readonly (readonly [string, string])[] = [
  ["cookie", "cookies"],
  ["muffin", "muffins"],
  ["cupcake", "cupcakes"],
  ["pancake", "pancakes"],
  ["sandwich", "sandwiches"],
  ["waffle", "waffles"],
  ["apple tart", "apple tarts"],
  ["honey bun", "honey buns"],
  ["egg roll", "egg rolls"],
];

export const critters = ["kitten", "puppy", "baby bird", "duckling", "lamb", "chick", "baby deer", "gosling"];

/** Where a creature is caught, and what sets it free. */
export const troubles: readonly (readonly [string, string])[] = [
  ["stuck in a thorny bush", "pulled the thorny branches apart"],
  ["caught in an old net", "pulled at the net until it opened"],
  ["stuck in the mud", "dug the mud away bit by bit"],
  ["trapped under a branch", "lifted the heavy branch"],
  ["stuck inside a hollow log", "rolled the log over"],
];

/** Something to learn: the verb, its -ing form, the first try, and the day it works. */
export const skills: readonly (readonly [string, string, string, string])[] = [
  ["ride a bike", "riding a bike", "the bike tipped over", "rode all the way down the path"],
  ["swim", "swimming", "water went up {h.his} nose", "swam all the way to the other side"],
  ["skate", "skating", "both feet slipped", "skated in a big circle"],
  ["whistle", "whistling", "only air came out", "whistled a whole song"],
  ["jump rope", "jumping rope", "the rope got tangled", "jumped ten times in a row"],
  ["climb the big tree", "climbing", "{h.his} foot slipped", "climbed up to the highest branch"],
  ["juggle", "juggling", "all the balls fell down", "juggled three balls at once"],
  ["play the flute", "playing the flute", "it made an awful squeak", "played a sweet little tune"],
  ["bake bread", "baking", "the bread came out hard as a stone", "baked a soft and golden loaf"],
  ["fly a kite", "flying the kite", "the kite fell on the grass", "made the kite dance high in the sky"],
];

/** Something to build: what it is, what it is made of, where, and how it falls apart. */
export const builds: readonly (readonly [string, string, string, string])[] = [
  ["sand castle", "sand and shells", "on the beach", "a big wave washed it away"],
  ["tower", "wooden blocks", "on the kitchen floor", "it leaned to one side and fell down"],
  ["house", "sticks and leaves", "in the forest", "a strong wind blew it down"],
  ["raft", "sticks and string", "by the river", "the string broke and it came apart"],
  ["birdhouse", "old boards and nails", "in the yard", "it fell off the branch and broke"],
  ["fort", "boxes and blankets", "in the living room", "the roof fell in with a bump"],
  ["bridge", "stones and mud", "over the little stream", "the water washed it away"],
];

export const plants = ["sunflower", "bean plant", "pumpkin", "rose", "tomato plant", "apple tree", "carrot"];
export const gifts = ["card", "cake", "scarf", "picture", "necklace", "song", "paper flower", "basket"];

/** A closed thing that is found, and what turns out to be inside. */
export const finds: readonly (readonly [string, string])[] = [
  ["small wooden box", "a music box that played a soft song"],
  ["rusty old box", "ten shiny coins and a note"],
  ["green glass bottle", "a map of {place}"],
  ["little wooden chest", "a golden key and an old letter"],
  ["old tin can", "seven glass marbles"],
  ["tiny silver box", "a ring with a blue stone"],
];

export const breakables = [
  "blue vase",
  "white cup",
  "big mirror",
  "flower pot",
  "glass bowl",
  "old clock",
  "lamp",
];
export const sounds = ["a loud boom", "a soft tap", "a long creak", "a strange scratch", "a low howl"];
export const soundMakers = [
  "only a branch at the window",
  "only the wind in the chimney",
  "only an owl on the roof",
  "only a gate that swung in the wind",
  "only the rain on the roof",
];
export const games = ["hide and seek", "tag", "catch", "a game of pirates", "a game of knights", "leapfrog"];
export const happy = ["happy", "proud", "glad", "very happy", "full of joy"];
export const sad = ["sad", "very sad", "upset", "lonely"];
