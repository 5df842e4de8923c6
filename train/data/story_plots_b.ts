import type { Plot } from "./corpus.ts";

const openTwo = [
  "Once upon a time, there was {h.intro}. {^h.his} best friend was {f.intro}.",
  "{h} and {f} were best friends. They did everything together.",
  "{^h.intro} had a very good friend. It was {f.intro}.",
  "Once there were two friends, {h} and {f}. They lived near {place}.",
];
const open = [
  "Once upon a time, there was {h.intro}.",
  "Once there was {h.intro} who lived near {place}.",
  "There once was {h.intro} who loved to {hobby}.",
  "{^h.intro} lived in a [small|cozy|little] house with {h.his} {g}.",
];

/** The other eight plots; see `story_plots_a.ts`. */
export const plotsB: readonly Plot[] = [
  {
    name: "quarrel",
    paragraphs: [
      [
        openTwo,
        [
          "One {weather} day, they found {a toy} {place.at}.",
          "One {weather} day, they were playing {place.at} with {a toy}.",
        ],
        [
          '"It is mine!" said {h}. "No, it is mine!" said {f}.',
          '"I want to have it first!" shouted {h}. "No, me first!" shouted {f}.',
        ],
      ],
      [
        [
          "{h} pulled on one side and {f} pulled on the other. Crack! The {toy} broke.",
          "They both pulled as hard as they could. Snap! Now the {toy} was broken.",
        ],
        [
          "{f} went home without a word. {h} was angry and went home too.",
          '"This is your fault!" said {h}, and {h.he} ran home. {f} went home too.',
        ],
        [
          "But playing alone was no fun. {h} felt {sad}.",
          "That night, {h} could not sleep. {^h.he} missed {h.his} friend.",
        ],
      ],
      [
        [
          'The next morning, {h} went to see {f}. "I am sorry," {h.he} said. "I am sorry too," said {f}.',
          '"I was wrong," {h} told {f} the next day. "A friend is better than any toy." {f} smiled and hugged {h.him}.',
        ],
        [
          "Together they fixed the {toy} with [tape|glue|string].",
          "They mended the {toy} and took turns playing with it.",
        ],
        [
          "They never fought about a toy again.",
          "From that day on, they shared all of their toys.",
          "And {h} and {f} were best friends again.",
        ],
      ],
    ],
  },
  {
    name: "birthday",
    paragraphs: [
      [
        open,
        [
          "It was almost {h.his} {g}'s birthday.",
          "Tomorrow was a special day. It was the birthday of {h.his} {g}.",
        ],
        [
          "{h} wanted to give {g.him} a present, but {h.he} had no money.",
          '"What can I give {^g}?" {h} asked. "I have no money at all."',
        ],
      ],
      [
        [
          '"You can make something," said {f.intro}, who lived next door.',
          "{h} thought and thought. Then {h.he} had an idea!",
        ],
        ["{h} decided to make {a gift}.", '"I will make {a gift}!" said {h}.'],
        [
          "{^h.he} worked all day and kept it a secret.",
          "It was not easy, but {h} worked on it until the evening.",
          "At first it looked a little funny. {h} tried again, and the second one was much better.",
        ],
        [
          'When {h.his} {g} came near, {h} hid it {spot1}. "It is a secret!" {h.he} said.',
          "{^h.he} hid it {spot1} so that nobody would see it.",
        ],
      ],
      [
        [
          '"Happy birthday, {^g}!" said {h} the next morning, and {h.he} held out the {gift}.',
          'In the morning, {h} ran to {h.his} {g}. "Surprise!" {h.he} shouted, and {h.he} showed {g.him} the {gift}.',
        ],
        [
          '"You made this for me?" asked {h.his} {g}. {^g.he} had tears of joy in {g.his} eyes.',
          '{^h.his} {g} smiled from ear to ear. "It is the best present of all," {g.he} said.',
        ],
        [
          "Then they all ate {snacks} together.",
          "{h} was {happy}. A present made with love is the best one.",
          "They hugged each other for a long time.",
        ],
      ],
    ],
  },
  {
    name: "way home",
    paragraphs: [
      [
        open,
        [
          "One {weather} day, {h} went {place.to} with {h.his} {g}.",
          "One {weather} day, {h} and {h.his} {g} took a long walk {place.to}.",
        ],
        [
          "{h} saw {a color} butterfly and ran after it.",
          "{h} followed a funny {critter} and did not look back.",
        ],
      ],
      [
        [
          "When {h.he} stopped, {h.he} could not see {h.his} {g} anymore.",
          "Suddenly, {h} was all alone. {^h.he} did not know the way back.",
        ],
        [
          '"{^g}! Where are you?" {h.he} called. Nobody answered.',
          "{h} was lost. {^h.he} felt small and scared.",
        ],
        [
          '"Stay calm and stay in one place," {h.his} {g} had always said. So {h} sat down on a big stone.',
          "{h} wiped {h.his} tears and tried to think.",
        ],
        [
          'Soon {f.intro} came along. "Are you lost?" {f.he} asked. "I can help you."',
          'Then {h} met {f.intro}. "I know this place well," said {f}. "Come with me."',
        ],
      ],
      [
        [
          "{f} took {h} by the hand, and they walked past the old tree and over the bridge.",
          "They followed the path and called again and again.",
        ],
        [
          'Then {h} heard a voice. "{h}! There you are!" It was {h.his} {g}.',
          "At the end of the path stood {h.his} {g}. {h} ran into {g.his} arms.",
        ],
        ['"Thank you, {f}," said {h}. "You are my hero."', "{h} thanked {f} and gave {f.him} {a snack}."],
        [
          "After that day, {h} always stayed close to {h.his} {g}.",
          "They all walked home together before it got dark.",
        ],
      ],
    ],
  },
  {
    name: "race",
    paragraphs: [
      [
        openTwo,
        [
          "{f} was very fast. {h} was slow, but {h.he} never gave up.",
          "{f} could run faster than anyone else, and {f.he} liked to tell everybody about it.",
        ],
        [
          'One {weather} day, {f} said, "Let\'s have a race! I will win."',
          "One {weather} day, there was a big race {place.at}.",
        ],
      ],
      [
        [
          '"One, two, three, go!" {f} ran like the wind.',
          "Everyone came to watch. When the bell rang, {f} shot ahead.",
        ],
        [
          'Halfway there, {f} looked back. "{h} is so slow," {f.he} said. "I have time for a nap."',
          "Soon {f} was far ahead, so {f.he} stopped to eat {a snack}.",
        ],
        [
          "{h} did not stop. Step by step, {h.he} kept going.",
          '"I can do it," {h} told {h.self}, and {h.he} kept on running.',
        ],
      ],
      [
        [
          "When {f} looked up, {h} was already at the finish line!",
          "{f} jumped up and ran, but it was too late. {h} had won!",
        ],
        ["Everyone cheered for {h}.", "{h} got a shiny medal, and everyone clapped."],
        [
          '"You did well," said {f}. "I should not have bragged."',
          '"Well done," said {f}, and {f.he} shook {h.his} hand.',
        ],
        ["{h} smiled. Slow and steady was the way to win.", "After that, they ran together, just for fun."],
      ],
    ],
  },
  {
    name: "greedy",
    paragraphs: [
      [
        open,
        ["{h} loved {snacks} more than any other food.", "{^h.his} favorite food was {snacks}."],
        [
          "One day, {h.his} {g} made a big bowl of {snacks} for the party.",
          "One {weather} day, there was a big plate of {snacks} in the kitchen.",
        ],
        ['"Please take only one," said {h.his} {g}.', '"These are for after dinner," said {h.his} {g}.'],
      ],
      [
        [
          "But when nobody was looking, {h} took one, and then another, and then another.",
          '"Just one more," thought {h}. One {snack} followed the other.',
        ],
        ["Soon the plate was empty.", "{^h.he} did not stop until all the {snacks} were gone."],
        [
          "Then {h.his} tummy began to hurt. It hurt so much that {h.he} had to lie down.",
          '"Ouch!" cried {h}. "My tummy hurts!"',
        ],
        [
          '{^h.his} {g} saw the empty plate. "Did you eat all of them?" {g.he} asked. {h} nodded slowly.',
          '"Now there are no {snacks} for your friend {f}," said {h.his} {g}. {h} felt bad.',
        ],
      ],
      [
        ['"I am sorry," said {h}. "I was too greedy."', '"I should have listened to you," {h} said quietly.'],
        [
          "{^h.his} {g} made {h.him} a cup of warm tea.",
          "The next day, {h} helped to make new {snacks} for everyone.",
        ],
        [
          "From then on, {h} always stopped after one.",
          "{h} learned that too much of a good thing is not good.",
        ],
      ],
    ],
  },
  {
    name: "strange find",
    paragraphs: [
      [
        openTwo,
        [
          "One {weather} day, they were digging {place.at} when they hit something hard.",
          "One {weather} day, they saw something strange {place.at}.",
        ],
        ["It was {a find}!", '"Look!" said {h}. "It is {a find}!"'],
      ],
      [
        [
          '"What do you think is inside?" asked {f}. "Maybe a treasure!" said {h}.',
          '"Should we open it?" {f} whispered. {h} was curious and a little scared.',
        ],
        ["They pushed and pulled, but it did not open.", "{h} shook it. Something moved inside!"],
        ["Then {f} gave it a little tap, and it opened.", "At last, with a soft crack, it opened."],
        ["Inside lay {inside}.", '"Wow!" they both said. Inside they found {inside}.'],
      ],
      [
        [
          '"We must find out who lost it," said {h}. They asked everyone {place.at}.',
          '"Let\'s show it to my {g}," said {h}.',
        ],
        [
          '"I lost it when I was a child!" said {h.his} {g}. "Thank you for finding it."',
          '"You may keep it," said {h.his} {g}, "but take good care of it."',
        ],
        [
          "It was the best day of the whole summer.",
          "{h} and {f} were {happy}. They could not wait for their next adventure.",
        ],
      ],
    ],
  },
  {
    name: "building",
    paragraphs: [
      [
        openTwo,
        [
          'One {weather} day, {h} said, "Let\'s build {a build}!"',
          "One {weather} day, they wanted to build {a build} {build.at}.",
        ],
        [
          "They looked for {parts} and started to work.",
          "{f} brought {parts}, and {h} put everything together.",
        ],
      ],
      [
        ["They worked all morning. But then {ruin}.", "It was almost done when {ruin}."],
        ['"All our work is gone!" cried {f}.', "{f} sat down and hid {f.his} face. {^f.he} was {sad}."],
        [
          '"Don\'t be sad," said {h}. "We can build it again, and this time it will be stronger."',
          '{h} thought for a moment. "I know what we did wrong," {h.he} said. "Let\'s try again."',
        ],
      ],
      [
        [
          "So they started again. {h} held it steady while {f} worked very carefully.",
          "This time they worked slowly, and {h.his} {g} helped them a little.",
        ],
        [
          "In the evening, the new {build} was done. It was even better than the first one.",
          "At last it was finished. It was the best {build} in the whole world.",
        ],
        [
          "They put {a color} flag on top and cheered.",
          '"We make a good team," said {f}.',
          "They were tired but {happy}.",
        ],
        [
          "{h} learned that it is fine to start over.",
          "The next day, they showed it to all of their friends.",
        ],
      ],
    ],
  },
  {
    name: "rainy day",
    paragraphs: [
      [
        open,
        [
          "One day, it rained and rained. {h} wanted to go {place.to}, but it was too wet.",
          "{h} wanted to play {game} outside, but the rain did not stop.",
        ],
        [
          '"I am so bored," said {h}. "There is nothing to do."',
          "{^h.he} looked out of the window and sighed.",
        ],
      ],
      [
        [
          '"Close your eyes," said {h.his} {g}. "Where would you like to go?"',
          'Then there was a knock at the door. It was {f.intro}. "Let\'s play inside!" {f.he} said.',
        ],
        [
          "{h} took a big box and painted it {color}. Now it was a ship!",
          "{h} put a blanket over two chairs. Now it was a cave!",
          "{h} put on {a color} hat and became a pirate captain.",
        ],
        [
          "The sofa was an island, and the floor was the deep sea.",
          "The pillows were mountains, and the rug was a wide green field.",
        ],
        [
          '"Look out for the dragon!" shouted {h}.',
          '"We need food for our long trip," said {h}, so they packed some {snacks}.',
        ],
      ],
      [
        [
          "They played for hours and forgot about the rain.",
          "Time went by so fast that nobody saw the sun come out.",
        ],
        [
          'When the rain stopped, {h.his} {g} asked, "Do you want to go outside now?" "No, thank you," said {h}. "Our trip is not over yet!"',
          "When the rain stopped, a rainbow stood in the sky. {h} smiled. A rainy day could be fun too.",
          "At last, the rain stopped. {h} ran outside and jumped into the biggest puddle. Splash!",
        ],
      ],
    ],
  },
];
